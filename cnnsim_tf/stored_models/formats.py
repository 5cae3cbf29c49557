"""Stored Keras models of any format: what describes them, and their weights. Nothing that is in them is run."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from cnnsim_tf.errors import StudyError
from cnnsim_tf.stored_models.architecture import build_model

MOST_BYTES = {"config.json": 64 << 20, "model.weights.h5": 2 << 30}  # of the parts of a file, unpacked


def read_model(path: Path, name: str = "") -> keras.Model:
    """Return a stored model, built anew with its weights.

    Args:
        path: of a .keras file of Keras 2 or 3, of an .h5 file, or of a folder that is a SavedModel of Keras 2 or an
            MLflow model with one of these in it.
        name: what it is called in sentences; by default the path.

    Raises:
        StudyError: it is none of these, cannot be read to its end, does not fit what describes it, or is of parts that
            are not read (see build_model).
    """
    name = name or str(path)
    try:
        path = _within(path)
        read = _saved_model if path.is_dir() else _keras_zip if zipfile.is_zipfile(path) else _hdf5
        return read(path)
    except StudyError as error:
        raise StudyError(f"{name}: {error}") from error
    except Exception as error:  # of h5py, zipfile, json, protobuf, TensorFlow and Keras, whatever is wrong with a file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StudyError(f"{name} cannot be read as a Keras model ({reason})") from error


def _within(path: Path) -> Path:
    """Return the model's own file or folder within an MLflow model."""
    if not path.is_dir() or (path / "saved_model.pb").is_file():
        return path
    places = [path / "data" / name for name in ("model.keras", "model.h5", "model")]
    found = [place for place in places if place.is_file() or (place / "saved_model.pb").is_file()]
    if not found:
        raise StudyError("it is no Keras model: it has neither a SavedModel nor an MLflow model's data/model.…")
    return found[0]


def _keras_zip(path: Path) -> keras.Model:
    """Read a .keras file: config.json and model.weights.h5, laid out alike by Keras 2.15 and 3."""
    with zipfile.ZipFile(path) as archive:
        description = json.loads(_member(archive, "config.json"))
        model = build_model(description)
        with h5py.File(io.BytesIO(_member(archive, "model.weights.h5"))) as file:
            for layer, place in _places(model, ""):
                variables = file.get(f"{place}/vars", {})
                _assign(layer, _legacy_order(layer), [variables[str(i)] for i in range(len(variables))])
    return with_constants(model)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if (size := archive.getinfo(name).file_size) > MOST_BYTES[name]:
        raise StudyError(f"{name} in it is {size:,} bytes, unpacked: more than {MOST_BYTES[name]:,} are not read")
    return archive.read(name)


def _places(model: keras.Model, above: str) -> Iterator[tuple[keras.layers.Layer, str]]:
    """Yield all layers and where a .keras file has their variables: by class, numbered from the start in each model."""
    used: dict[str, int] = {}
    for layer in _stored_layers(model):
        kind = _snake_case(type(layer).__name__)
        used[kind] = used.get(kind, -1) + 1
        place = f"{above}layers/{kind}{f'_{used[kind]}' if used[kind] else ''}"
        if isinstance(layer, keras.Model):
            yield from _places(layer, f"{place}/")
        else:
            yield layer, place


def _stored_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def _snake_case(name: str) -> str:
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _hdf5(path: Path) -> keras.Model:
    """Read an .h5 file of Keras 2 or 3: model_config and model_weights, by layer in the order of their variables."""
    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise StudyError("it has no model_config: of the weights alone the layers cannot be told")
        text = file.attrs["model_config"]
        model = build_model(json.loads(text if isinstance(text, str) else text.decode()))
        groups = file["model_weights"]
        for layer in model._flatten_layers(include_self=False):  # on which the order within a model depends
            if not isinstance(layer, keras.Model):
                layer.trainable = getattr(layer, "_was_trainable", True)
        for layer in _stored_layers(model):
            group = groups[layer.name]
            names = [n.decode() if isinstance(n, bytes) else n for n in group.attrs.get("weight_names", [])]
            _assign(layer, _legacy_order(layer), [group[name] for name in names])
    for layer in model._flatten_layers(include_self=False):
        layer.trainable = True
    return with_constants(model)


def _legacy_order(layer: keras.layers.Layer) -> list[Any]:
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _saved_model(path: Path) -> keras.Model:
    """Read a SavedModel of Keras 2: what keras_metadata.pb describes, and its checkpoint by the layers' attributes."""
    from keras.protobuf import saved_metadata_pb2
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    metadata = saved_metadata_pb2.SavedMetadata()
    metadata.ParseFromString((path / "keras_metadata.pb").read_bytes())
    root = next(node for node in metadata.nodes if node.node_path == "root")
    model = build_model(json.loads(root.metadata))
    checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(checkpoint.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))

    def child(node: Any, name: str) -> Any:
        return graph.nodes[next(each.node_id for each in node.children if each.local_name == name)]

    def assign(model: keras.Model, node: Any) -> None:
        for i, layer in enumerate(layer for layer in model.layers if layer.weights):
            stored = child(node, f"layer_with_weights-{i}")
            if isinstance(layer, keras.Model):
                assign(layer, stored)
            else:
                kept = [child(stored, _attribute(layer, w)).attributes[0].checkpoint_key for w in layer.weights]
                _assign(layer, layer.weights, [checkpoint.get_tensor(key) for key in kept])

    assign(model, graph.nodes[0])
    return with_constants(model)


def _attribute(layer: keras.layers.Layer, variable: Any) -> str:
    """Return the name of a layer's attribute that is a variable."""
    return next(name for name, value in vars(layer).items() if value is variable)


def _assign(layer: keras.layers.Layer, variables: list[Any], stored: list[Any]) -> None:
    """Set a layer's variables to stored arrays.

    Raises:
        StudyError: their number, shapes or types are others, or they are not finite.
    """
    shapes = [tuple(v.shape) for v in variables], [tuple(a.shape) for a in stored]
    if shapes[0] != shapes[1]:
        raise StudyError(f"the layer {layer.name!r} has weights of {shapes[0]}, and those stored are of {shapes[1]}")
    for variable, array in zip(variables, stored, strict=True):
        value = np.asarray(array[()])
        with np.errstate(over="ignore"):
            single = value.astype(np.float32) if value.dtype.kind in "fiu" else np.array(np.nan)
        if not np.isfinite(single).all():
            raise StudyError(f"the layer {layer.name!r} has weights that are not finite numbers ({variable.name})")
        variable.assign(single)


def with_constants(model: keras.Model) -> keras.Model:
    """Return the model with what Normalization layers learned of data as constants, which are no weights."""
    learned = [w for w in model._flatten_layers(include_self=False) if type(w) is keras.layers.Normalization]
    if not any(layer.weights for layer in learned):
        return model
    constants = {
        layer.name: {"mean": layer.adapt_mean.numpy().tolist(), "variance": layer.adapt_variance.numpy().tolist()}
        for layer in learned
        if layer.weights
    }

    def constant(part: Any) -> Any:
        if isinstance(part, Mapping):
            part = {key: constant(value) for key, value in part.items()}
            if part.get("class_name") == "Normalization":
                part["config"] |= constants.get(part["config"]["name"], {})
            return part
        return [constant(each) for each in part] if isinstance(part, list) else part

    fixed = build_model(constant(json.loads(model.to_json())))
    kept = [w for w in model.weights if not any(w is v for layer in learned for v in layer.weights)]
    fixed.set_weights([w.numpy() for w in kept])
    return fixed
