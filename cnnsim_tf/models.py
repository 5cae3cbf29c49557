"""Keras models of CNNs: built and checked, their fresh weights and their layers."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnnsim_tf.cnn import CNNS, CnnBuilder, takes_channels
from cnnsim_tf.errors import StudyError
from cnnsim_tf.filters import ConvKernel
from cnnsim_tf.random_layers import unseeded

# Networks known to say how they are made, to return logits, and to start from weights that follow the seed.
# By the shapes of their weights.
_KNOWN: dict[tuple[CnnBuilder, int, int, int], list[tuple[int, ...]]] = {}
NARROW = 6.0  # between the least and the largest output of a network of which softmax is never sure enough


_ONE_AT_A_TIME = threading.RLock()  # seeds and layers' names are global state of Keras, and repeats run in threads


def build(name: str, side: int, classes: int, channels: int = 1) -> keras.Model:
    """Return a new model of a registered CNN or of a user's own, for square images of so many pixels and channels.

    Layers without a name of their own are numbered from the start in every model (`conv2d`, `conv2d_1`, ...), so that
    they have the same names in every run.

    Raises:
        ParameterError: the name is unknown.
        StudyError: the function raises or does not return a model from [N, side, side, channels] to logits
            [N, classes], the model has weights that training by gradients does not reach or draws random numbers that
            no seed reaches, or it has no Conv2D layer.
    """
    model = _named(name, side, classes, channels)
    if not isinstance(model, keras.Model) or not model.built:
        hint = ", so begin it with keras.Input((side, side, channels))" if isinstance(model, keras.Sequential) else ""
        raise StudyError(f"the CNN {name!r} returned {type(model).__name__}: it must return a built keras.Model{hint}")
    if not hasattr(model, "input_shape"):  # a subclass of keras.Model that was built by a call
        raise StudyError(f"the CNN {name!r} is a {type(model).__name__}: it must be Sequential or functional")
    expected = (None, side, side, channels)
    if model.input_shape != expected or model.output_shape != (None, classes):
        others = model.input_shape != expected and tuple(model.input_shape)[:-1] == expected[:-1]
        hint = f", so let its function take a third parameter, channels, which is {channels} of these images"
        raise StudyError(
            f"the CNN {name!r} maps {model.input_shape} to {model.output_shape}: "
            f"it must map {expected} to {(None, classes)}{hint if others else ''}"
        )
    moving = {id(w) for layer in batch_normalisations(model) for w in layer.non_trainable_weights if layer.trainable}
    if other := [w.name for w in model.non_trainable_weights if id(w) not in moving]:
        raise StudyError(
            f"the CNN {name!r} has non-trainable weights ({other[0]}), which no training reaches: of all layers with "
            "such a state only BatchNormalization can be had, and none that is frozen"
        )
    types = [(w.name, w.dtype.name) for w in model.weights]
    types += [(layer.name, layer.compute_dtype) for layer in model._flatten_layers()]
    if other := [(of, kind) for of, kind in types if kind in ("float16", "bfloat16", "float64")]:
        raise StudyError(
            "the CNN {!r} has {!r} of the type {}: all must be float32, so leave the types of layers and Keras's "
            "policies as they are".format(name, *other[0])
        )
    uses = _uses(model)
    if twice := [layer.name for layer in batch_normalisations(model) if uses[id(layer)] > 1]:
        raise StudyError(
            f"the CNN {name!r} uses the BatchNormalization layer {twice[0]!r} more than once: its statistics would be "
            "a mixture, so give each place a layer of its own"
        )
    if not conv_layers(model):
        within = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        hint = "".join(
            f"; those of {layer!r}, a model within the model, are not looked at, so build its layers on the network's "
            "own input (keras.applications do so with input_tensor=)"
            for layer in within[:1]
        )
        raise StudyError(f"the CNN {name!r} has no Conv2D layer: there are no filters to compare{hint}")
    if (kind := (CNNS.get(name), side, classes, channels)) not in _KNOWN:
        _check_told(name, model)
        if told := CNNS.call(name, _not_logits, model):
            raise StudyError(f"the CNN {name!r} {told}: it must return logits, so leave that activation out")
        _check_chance(name, model, side, classes, channels)
        _check_draws(name, side, classes, channels)
        _KNOWN[kind] = [tuple(w.shape) for w in model.weights]
    elif [tuple(w.shape) for w in model.weights] != _KNOWN[kind]:
        raise _another(name)
    return model


def _named(name: str, side: int, classes: int, channels: int) -> Any:
    """Return what the function of a CNN returns, whose layers are named as in every such model."""
    with _ONE_AT_A_TIME:
        keras.backend.reset_uids()  # else Keras goes on counting from the models that were built before
        return _called(name, side, classes, channels)


def _another(name: str) -> StudyError:
    return StudyError(f"the CNN {name!r} returns another network each time: its function must always make the same one")


def _uses(model: keras.Model) -> Counter[int]:
    """Return how often layers are used in a Sequential or functional model, those of models within it included."""
    count: Counter[int] = Counter()
    for nodes in getattr(model, "_nodes_by_depth", {}).values():
        for node in nodes:
            count += _uses(node.layer) if isinstance(node.layer, keras.Model) else Counter([id(node.layer)])
    return count


def _description(model: keras.Model) -> list[tuple[str, str]]:
    """Return the kinds of a model's layers and how each says that it is made; Lambda layers may not say it."""
    described = []
    for layer in model._flatten_layers(include_self=False):
        config = ""
        with contextlib.suppress(Exception):
            config = json.dumps(layer.get_config(), default=lambda part: type(part).__name__)
        described.append((type(layer).__name__, config))
    return described


def _called(name: str, side: int, classes: int, channels: int) -> keras.Model:
    """Return what the function of a CNN returns, which is given the number of channels if it asks for it."""
    builder = CNNS.get(name)
    return CNNS.call(name, partial(builder, **{"channels": channels} if takes_channels(builder) else {}), side, classes)


def _check_told(name: str, model: keras.Model) -> None:
    """Raise where a layer does not say how it is made, which the rest of the package asks of all."""
    for layer in model._flatten_layers(include_self=False):
        try:
            layer.get_config()
        except Exception as error:
            raise StudyError(
                f"the CNN {name!r} has the layer {layer.name!r}, of which a part does not say how it is made "
                f"({' '.join(str(error).split())}): give your regularizers and initialisers a get_config"
            ) from error


def _check_chance(name: str, model: keras.Model, side: int, classes: int, channels: int) -> None:
    """Raise where a model's fresh weights do not follow the study's seeds: repeats would not be independent."""
    for layer in model._flatten_layers(include_self=False):
        for attribute, value in vars(layer).items():
            if attribute.endswith("_initializer") and getattr(value, "seed", None) is not None:
                raise StudyError(
                    f"the CNN {name!r} has the layer {layer.name!r}, whose {attribute} has a seed of its own: every "
                    "repeat would start from the same weights, so leave the seed out"
                )
    made: list[keras.Model] = []

    def make() -> keras.Model:
        made.append(_named(name, side, classes, channels))
        return made[-1]

    first, again, other = (_drawn(make, seed) for seed in (1, 1, 2))
    if any(_description(each) != _description(model) for each in made):
        raise _another(name)
    if not all(np.isfinite(w).all() for w in first):
        raise StudyError(f"the CNN {name!r} starts from weights that are not finite: look at its initialisers")
    if not all(map(np.array_equal, first, again)):
        raise StudyError(
            f"the CNN {name!r} has weights that differ where the seed is the same: initialisers must take their random "
            "numbers from Keras's or TensorFlow's global generators"
        )
    if all(map(np.array_equal, first, other)):
        raise StudyError(
            f"the CNN {name!r} starts from the same weights whatever the seed: leave its own seeds and weights out"
        )


def _check_draws(name: str, side: int, classes: int, channels: int) -> None:
    """Raise where a model in training draws random numbers that the study's seeds do not reach."""
    if found := CNNS.call(name, unseeded, _called(name, side, classes, channels)):
        raise StudyError(
            f"the CNN {name!r} draws random numbers in {found[0]!r}, which the study's seed does not reach: take them "
            "from Keras's own layers, such as Dropout, SpatialDropout2D, GaussianNoise, RandomFlip or RandomRotation"
        )


def _not_logits(model: keras.Model) -> str:
    """Return what gives away that a model's outputs are no logits, by what they are, or nothing.

    With weights and images drawn at random, logits are anything, and grow with the weights. Outputs between bounds
    that are far apart may be logits: a temperature times a cosine, or a soft cap.
    """
    weights = model.get_weights()

    def outputs(scale: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        found = []
        for _ in range(3):
            draw_weights(model, rng, scale)
            images = rng.uniform(-1, 1, (4, *model.input_shape[1:])).astype(np.float32)
            found.append(model(images, training=False).numpy())  # augmentation acts where it is not told

        return np.concatenate(found).astype(float)

    # Two of which are as large as they may be before numbers overflow on the way.
    scales = (30, 10, 3, 1, 0.3, 0.1, 0.03, 0.01)
    tried = list(islice((rows for rows in map(outputs, scales) if np.isfinite(rows).all()), 2))
    model.set_weights(weights)
    if not tried or not tried[0].any():
        return ""
    rows = tried[0]
    low, high, sums = rows.min(), rows.max(), rows.sum(axis=1)
    bounded = len(tried) > 1 and np.ptp(rows) < 1.5 * np.ptp(tried[1])
    if np.allclose(sums, sums[0], rtol=1e-3, atol=1e-3 * np.ptp(rows)) and (low >= 0 or bounded):
        return f"ends in a softmax: its outputs, {low:.3g} to {high:.3g}, sum to {sums[0]:.3g} for every image"
    if low >= 0 and high <= 1:
        return "ends in a sigmoid or the like: all its outputs are from 0 to 1"
    if bounded and high - low < NARROW:
        return f"ends in a sigmoid or the like: its outputs stay between {low:.3g} and {high:.3g} whatever its weights"
    if low >= 0:
        return "ends in a ReLU or the like: none of its outputs is negative, whatever its weights"
    return ""


def draw_weights(model: keras.Model, rng: np.random.Generator, sd: float) -> None:
    """Set all weights to normal random numbers with mean 0, moving variances to such without their sign."""
    drawn = [rng.normal(0, sd, w.shape) for w in model.weights]
    model.set_weights([w if v.trainable else abs(w) for w, v in zip(drawn, model.weights, strict=True)])


def minimised_loss(cross_entropies: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Return what training minimises: the mean cross-entropy of a batch and what the model's regularizers add to it.

    Args:
        cross_entropies: [n] in nats, of what the model gave when it was last called.
        model: that gave it.
    """
    return tf.add_n([tf.reduce_mean(cross_entropies), *model.losses])


def conv_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the model's Conv2D layers in the order in which data passes them."""
    # Not isinstance: a transposed convolution is a Conv2D to Keras, with its kernel's channels the other way round.
    return [layer for layer in model.layers if type(layer) is keras.layers.Conv2D]


def conv_kernels(model: keras.Model) -> list[ConvKernel]:
    """Return the model's Conv2D kernels, first layer first."""
    positions = {id(w): i for i, w in enumerate(model.weights)}
    return [ConvKernel(c.name, positions[id(c.kernel)], tuple(c.kernel.shape)) for c in conv_layers(model)]


def batch_normalisations(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the model's BatchNormalization layers, also those of models within it."""
    every = model._flatten_layers(include_self=False)
    return [layer for layer in every if type(layer) is keras.layers.BatchNormalization]


def chain(model: keras.Model) -> list[keras.layers.Layer] | str:
    """Return the layers that data passes one after the other, or one sentence that says why there is no such chain."""
    if type(model) is not keras.Sequential and type(model) is not keras.Model and type(model).__name__ != "Functional":
        return f"the model is a {type(model).__name__}, neither Sequential nor functional"
    layers = [layer for layer in model.layers if type(layer) is not keras.layers.InputLayer]
    if type(model) is keras.Sequential:
        return layers
    tensor = model.input
    for layer in layers:
        if isinstance(layer, keras.Model):
            return f"layer {layer.name!r} is a model within: the model is not a chain"
        if any(node.input_tensors is not tensor for node in layer.inbound_nodes):
            return f"layer {layer.name!r} does not follow the layer before it: the model is not a chain"
        tensor = layer.output
    return layers if tensor is model.output else "the model's output is not that of its last layer"


def fresh_weights(name: str, side: int, classes: int, seed: int, channels: int = 1) -> list[np.ndarray]:
    """Return initial weights as the model's own initialisers draw them, in Keras's weight order, float32.

    Keras seeds its initialisers from global state only, so that this sets the global seeds of Python, numpy and
    TensorFlow, on which nothing else here depends.

    Args:
        name: of the CNN.
        side: of the images in pixels.
        classes: number of outputs.
        seed: 32-bit; equal seeds give bit-identical weights on any device.
        channels: of the images.
    """
    return _drawn(lambda: build(name, side, classes, channels), seed)


def _drawn(make: Callable[[], keras.Model], seed: int) -> list[np.ndarray]:
    with _ONE_AT_A_TIME, tf.device("/CPU:0"):
        keras.utils.set_random_seed(seed)
        return [np.asarray(w, dtype=np.float32) for w in make().get_weights()]
