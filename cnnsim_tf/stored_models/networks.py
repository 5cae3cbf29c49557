"""Stored models as networks of a study: from images in [-1, 1] to logits, all of one architecture."""

import copy
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from cnnsim_tf.cnn import CNNS
from cnnsim_tf.errors import StudyError
from cnnsim_tf.stored_models.architecture import build_model, flattened

# What a network makes of a study's pixels, in [-1, 1], before all else: the factor and what is added.
PIXELS = {"-1..1": (1.0, 0.0), "0..1": (0.5, 0.5), "0..255": (127.5, 127.5)}
_PROBABILITIES = ("softmax", "sigmoid")
# What may differ between models that exchange weights: it decides how fresh ones start and how they are trained.
_TRAINING = ("name", "rate", "stddev", "momentum", "l1", "l2", "seed")
_OF_WEIGHTS = ("_initializer", "_regularizer", "_constraint")


@dataclass(frozen=True)
class Networks:
    """D networks of one architecture."""

    description: dict[str, Any]  # what `build_model` makes one of, with fresh weights
    weights: list[np.ndarray]  # in Keras's order, each [D, ...] float32
    notes: list[str]  # what a user should know, in sentences
    pixels: str  # the range of the images that they were trained on, which the description begins with
    classes: int  # outputs

    @cached_property
    def digests(self) -> list[str]:
        """A sha256 of each network: of its architecture and its weights."""
        head = json.dumps(self.description, sort_keys=True).encode()
        return [
            hashlib.sha256(head + b"".join(np.ascontiguousarray(w[d]).tobytes() for w in self.weights)).hexdigest()
            for d in range(len(self.weights[0]))
        ]

    @property
    def digest(self) -> str:
        """A sha256 of all, in their order."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Height, width and channels of the images that they take."""
        return tuple(self.description["config"]["layers"][0]["config"]["batch_input_shape"][1:])

    @property
    def cnn(self) -> str:
        """The name of the architecture among the CNNs, once it is registered."""
        return f"donors-{self.digest[:8]}"

    def register(self) -> None:
        """Make the architecture one of the CNNs that a study can be of, with its own initialisers."""
        if self.cnn not in CNNS:
            CNNS.register(self.cnn)(lambda side, classes, channels=1: build_model(self.description))

    def packed(self) -> bytes:
        """Return all as the bytes of an .npz without objects."""
        buffer = io.BytesIO()
        head = {
            name: value for name, value in vars(self).items() if name in ("description", "notes", "pixels", "classes")
        }
        np.savez(buffer, np.array(json.dumps(head)), *self.weights)
        return buffer.getvalue()

    @classmethod
    def unpacked(cls, content: bytes) -> "Networks":
        """Return what `packed` made bytes of."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            head, *weights = (arrays[f"arr_{i}"] for i in range(len(arrays.files)))
            return cls(weights=weights, **json.loads(str(head)))


def networks_of(models: Mapping[str, keras.Model], pixels: str = "auto", side: int | None = None) -> Networks:
    """Return stored models as networks of one architecture, that of the first.

    A softmax or sigmoid at the end is taken off. What a model makes of its input before the first convolution stays.

    Args:
        models: by what they are called in sentences; two or more.
        side: of the images in pixels, for models that take images of any size.
        pixels: the range of the images that they were trained on, one of `PIXELS`; auto takes 0..255 for a model
            that begins with Rescaling or Normalization, and -1..1 for others.

    Raises:
        StudyError: there are fewer than two, or they differ in a layer, a setting or a shape.
    """
    if len(models) < 2:
        raise StudyError(
            f"{', '.join(models) or 'nothing'} is {len(models)} donor{'s' * (not models)}: give two or more"
        )
    models = {name: flattened(model) for name, model in models.items()}
    descriptions, ends = [], []
    for name, model in models.items():
        description, end = _without_probabilities(json.loads(model.to_json()), name)
        shape = description["config"]["layers"][0]["config"]["batch_input_shape"]
        shape[1:3] = [side if size is None else size for size in shape[1:3]]
        descriptions.append(description)
        ends.append(end)
    (first, *others), names = descriptions, list(models)
    for name, description in zip(names[1:], others, strict=True):
        if difference := _difference(first, description):
            raise StudyError(f"{name} is another network than {names[0]}: {difference}")
    scaled = any(layer in ("Rescaling", "Normalization") for layer in _beginning(next(iter(models.values()))))
    wanted = ("0..255" if scaled else "-1..1") if pixels == "auto" else pixels
    notes = []
    for end in dict.fromkeys(filter(None, ends)):
        who = "donors end" if set(ends) == {end} else f"{ends.count(end)} of the donors end"
        notes.append(f"{who} in a {end}, which is taken off: accuracies are the same without")
    weights = [np.stack(each) for each in zip(*(model.get_weights() for model in models.values()), strict=True)]
    classes = next(iter(models.values())).output_shape[-1]
    return Networks(_of_pixels(first, *PIXELS[wanted]), weights, notes, wanted, classes)


def _beginning(model: keras.Model) -> list[str]:
    """Return the kinds of the layers that come before the first one with weights."""
    kinds = []
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, (keras.layers.InputLayer, keras.Model)):
            continue
        kinds.append(type(layer).__name__)
        if layer.weights:
            break
    return kinds


def _without_probabilities(description: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return a description without a softmax or sigmoid at the end, and which it was, or ''."""
    config = description["config"]
    while True:
        last = _part(config["layers"], config["output_layers"][0][0])
        kind, end = last["class_name"], last["config"].get("activation")
        if kind == "Activation" and end == "linear":
            end = ""
        elif kind != "Softmax" and end not in _PROBABILITIES:
            return description, ""
        if len(last["inbound_nodes"]) > 1:
            raise StudyError(
                f"{name} ends in {last['config']['name']!r}, which is used more than once: the {end or kind} that it "
                "ends in cannot be taken off"
            )
        if kind in ("Activation", "Softmax"):
            ((given,),) = last["inbound_nodes"]
            config["output_layers"] = [given[:3]]
            config["layers"].remove(last)
        else:
            last["config"]["activation"] = "linear"
        if end != "":
            return description, end or "softmax"


def _of_pixels(description: dict[str, Any], scale: float, offset: float) -> dict[str, Any]:
    """Return a description with a Rescaling in front of all else."""
    if (scale, offset) == PIXELS["-1..1"]:
        return description
    description = copy.deepcopy(description)
    config = description["config"]
    name, taken = "pixels", [part["config"]["name"] for part in config["layers"]]
    while name in taken:
        name += "_"
    scaling = {"class_name": "Rescaling", "config": {"name": name, "scale": scale, "offset": offset}}
    image = config["input_layers"][0][0]

    def rescaled(given: Any) -> Any:
        if isinstance(given, list) and given and given[0] == image:
            return [name, *given[1:]]
        return [rescaled(each) for each in given] if isinstance(given, list) else given

    for part in config["layers"]:
        part["inbound_nodes"] = rescaled(part["inbound_nodes"])
    at = config["layers"].index(_part(config["layers"], image)) + 1
    config["layers"].insert(at, scaling | {"name": name, "inbound_nodes": [[[image, 0, 0, {}]]]})
    return description


def _part(parts: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(part for part in parts if part["config"]["name"] == name)


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return the first difference of two descriptions that keeps them from exchanging weights, or ''."""
    pair = [description["config"]["layers"] for description in (one, other)]
    for number, (a, b) in enumerate(zip(*pair, strict=False), 1):
        at = f"layer {number} of it is {b['config']['name']!r}"
        if a["class_name"] != b["class_name"]:
            return f"{at}, a {b['class_name']} in place of a {a['class_name']}"
        for key, value in a["config"].items():
            found = b["config"].get(key)
            learned = a["class_name"] == "Normalization" and key in ("mean", "variance")  # of data, by sums that round
            if key in _TRAINING or key.endswith(_OF_WEIGHTS) or (_close(found, value) if learned else found == value):
                continue
            return f"{at}, with {key}={_short(found)} in place of {_short(value)}"
    if len(pair[0]) != len(pair[1]):
        return f"it has {len(pair[1])} layers in place of {len(pair[0])}"
    return "" if _graph(one) == _graph(other) else "its layers are connected otherwise"


def _close(one: Any, other: Any) -> bool:
    a, b = np.asarray(one, float), np.asarray(other, float)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5)


def _short(value: Any) -> str:
    return f"{value!r:.60}"


def _graph(description: dict[str, Any]) -> Any:
    """Return how layers are connected, by their numbers."""
    parts = description["config"]["layers"]
    numbers = {part["config"]["name"]: number for number, part in enumerate(parts)}

    def numbered(given: Any) -> Any:
        return [numbered(each) for each in given] if isinstance(given, list) else numbers.get(str(given), given)

    return [numbered(part.get("inbound_nodes")) for part in parts]
