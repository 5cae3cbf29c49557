"""Keras models built anew from their stored descriptions, of Keras 2 or 3, of Keras's own layers alone.

Keras's own loaders are not used: those of Keras 2 cannot read what Keras 3 stored, and run what a description names.
"""

import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import keras
import numpy as np

from cnnsim_tf.errors import StudyError

LONGEST_NAME, LARGEST = 100, 10**6  # of settings, such as the number of filters
MODELS = ("Sequential", "Functional", "Model")
_LAYERS = {
    getattr(keras.layers, name)
    for name in (
        *("Conv2D", "SeparableConv2D", "DepthwiseConv2D", "Conv2DTranspose", "Dense"),
        *("BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization"),
        *("Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "ThresholdedReLU", "Softmax"),
        *("MaxPooling2D", "AveragePooling2D", "GlobalMaxPooling2D", "GlobalAveragePooling2D"),
        *("ZeroPadding2D", "Cropping2D", "UpSampling2D", "Resizing", "Flatten", "Reshape", "Permute"),
        *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
        *("Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"),
        *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness"),
        *("Rescaling", "Normalization"),
    )
}
LAYERS = {layer.__name__: layer for layer in _LAYERS}
_ACTIVATIONS = {
    *("linear", "relu", "relu6", "elu", "selu", "gelu", "softplus", "softsign", "swish", "silu", "mish"),
    *("tanh", "sigmoid", "exponential", "softmax", "leaky_relu"),
}
_OBJECTS = {"initializer": keras.initializers, "regularizer": keras.regularizers, "constraint": keras.constraints}
_RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}  # from Keras 3's name of a setting to Keras 2's
# What Keras 3 writes of settings that Keras 2 has not, where they are as Keras 2 does it.
_AS_EVER = {("Resizing", "fill_mode"): "constant", ("RandomContrast", "value_range"): [0, 255]}
_LAYER_SETTINGS = {"name"}  # of all layers; others are left at what Keras 2 takes: trainable, of the type float32


def build_model(description: Mapping[str, Any]) -> keras.Model:
    """Return a new model, with fresh weights, of a stored one's architecture.

    All layers are trainable, and initialisers are without seeds of their own.

    Args:
        description: what Keras stores of a model: its class_name and config.

    Raises:
        StudyError: the model is neither Sequential nor functional, or has another layer than those of `LAYERS`, a
            custom object, a setting that Keras 2 has not, or several inputs or outputs.
    """
    keras.backend.reset_uids()
    return _model(_named(_plain(description), "model"))


def flattened(model: keras.Model) -> keras.Model:
    """Return a functional model with the layers of models within it as its own; those called alike get numbers."""
    image = keras.Input(model.input_shape[1:], name=model.input_names[0])
    taken = {image.node.layer.name: image.node.layer}
    return keras.Model(image, _applied(model, image, taken))


def _applied(model: keras.Model, given: Any, taken: dict[str, Any]) -> Any:
    """Return the output of a model's layers, one by one, for an input; their names are unique among those taken."""
    uses = model._tensor_usage_count  # Keras takes a tensor out each time that it is used
    image = str(id(model.inputs[0]))
    tensors = {image: [given] * (uses[image] + 1)}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            (inputs, *_), _ = node.map_arguments(tensors)
            layer = node.layer
            if isinstance(layer, keras.Model):
                output = _applied(layer, inputs, taken)
            else:
                number = itertools.count(1)
                name = layer.name
                while taken.setdefault(layer.name, layer) is not layer:
                    layer._name = f"{name}_{next(number)}"
                output = layer(inputs)
            made = str(node.flat_output_ids[0])
            tensors[made] = [output] * (uses[made] + 1)
    return tensors[str(id(model.outputs[0]))][0]


def _plain(value: Any) -> Any:
    """Return a description without the marks that Keras gives to tuples and shapes."""
    if isinstance(value, Mapping):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return [_plain(each) for each in value["items"]]
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _model(description: Mapping[str, Any]) -> keras.Model:
    kind, config = description["class_name"], description["config"]
    if kind not in MODELS or not _is_kerass(description):
        raise StudyError(f"it is a {kind}: it must be a Sequential or functional model of Keras's own layers")
    return _sequential(description, config) if kind == "Sequential" else _functional(config)


def _sequential(description: Mapping[str, Any], config: Any) -> keras.Model:
    parts = [_named(part, "layer") for part in (config["layers"] if isinstance(config, Mapping) else config)]
    shape = _input_shape(parts[0]["config"]) if parts else None
    if shape is None:
        shape = config.get("build_input_shape") or description.get("build_config", {}).get("input_shape")
    if shape is None:
        raise StudyError("it was stored before it was built: the shape of its input is not known")
    layers = [_layer(part) for part in parts if part["class_name"] != "InputLayer"]
    name = config.get("name") if isinstance(config, Mapping) else None
    return keras.Sequential([keras.Input(shape[1:]), *layers], name=name)


def _functional(config: Mapping[str, Any]) -> keras.Model:
    """Return a functional model, its layers' uses made one after the other as soon as what they take is there."""
    layers: dict[str, Any] = {}
    waiting: list[tuple[str, int, Any]] = []
    made: dict[tuple[str, int], Any] = {}  # the outputs of every use of a layer
    parts = {part["name"]: _named(part, "layer") for part in config["layers"]}
    for name, part in parts.items():
        if part["class_name"] == "InputLayer":
            made[name, 0] = keras.Input((_input_shape(part["config"]) or [])[1:], name=name)
        else:
            layers[name] = _layer(part)
    inputs, outputs = (_references(config[end]) for end in ("input_layers", "output_layers"))
    named = {*outputs, *(at for part in parts.values() for at in _references(part["inbound_nodes"]))}
    for name in layers:
        nodes = parts[name]["inbound_nodes"]
        # Keras 2 counts a model's uses from 1, since it is itself one.
        first = int(parts[name]["class_name"] in MODELS and (name, len(nodes)) in named)
        waiting += [(name, use, given) for use, given in enumerate(nodes, first)]
    while waiting:
        ready = [each for each in waiting if all(at in made for at in _references(each[2]))]
        if not ready:
            raise StudyError(f"the inputs of layer {waiting[0][0]!r} are not in the model")
        for name, use, given in ready:
            taken = [made[at] for at in _references(given)]
            made[name, use] = layers[name](taken if len(taken) > 1 or _is_merge(layers[name]) else taken[0])
        waiting = [each for each in waiting if each not in ready]
    if len(inputs) != 1 or len(outputs) != 1:
        raise StudyError(f"it has {len(inputs)} inputs and {len(outputs)} outputs: it must have one of each")
    return keras.Model(made[inputs[0]], made[outputs[0]], name=config.get("name"))


def _is_merge(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Add.__base__)  # as Concatenate is, too


def _references(given: Any) -> list[tuple[str, int]]:
    """Return which uses of layers a stored reference names, of Keras 2 ([name, use, tensor, …]) or of Keras 3."""
    if isinstance(given, Mapping):
        if given.get("class_name") == "__keras_tensor__":
            name, use, _ = given["config"]["keras_history"]
            return [(name, use)]
        if more := {key: value for key, value in given.get("kwargs", {}).items() if value not in (None, False)}:
            raise StudyError(f"a layer is called with {next(iter(more))}, which is not read")
        return _references(given.get("args", []))
    if not isinstance(given, Sequence) or isinstance(given, str):
        return []
    if len(given) >= 3 and isinstance(given[0], str) and isinstance(given[1], int):
        # training=False, of a part that was frozen, says nothing here: all of it is trained.
        if len(given) > 3 and (more := {k: v for k, v in given[3].items() if v not in (None, False)}):
            raise StudyError(f"a layer is called with {next(iter(more))}, which is not read")
        return [(given[0], given[1])]
    return [reference for each in given for reference in _references(each)]


def _layer(part: Mapping[str, Any]) -> keras.layers.Layer:
    kind, config = part["class_name"], part["config"]
    if kind in MODELS:
        return _model(part)
    name = config.get("name", kind)
    if len(str(name)) > LONGEST_NAME or not re.fullmatch(r"[A-Za-z0-9.][\w.-]*(/[\w-][\w.-]*)*", str(name), re.ASCII):
        raise StudyError(
            f"a layer is called {str(name)[:LONGEST_NAME]!r}: names have up to {LONGEST_NAME} letters, digits, _.-/"
        )
    if kind not in LAYERS or not _is_kerass(part):
        raise StudyError(
            f"the layer {name!r} is a {part.get('registered_name') or kind}, which is not read, since it could run "
            "code that came with the model: docs/own_networks.md lists the layers that are"
        )
    layer = LAYERS[kind](**_settings(kind, name, config))
    layer._was_trainable = config.get("trainable", True) is not False
    return layer


def _settings(kind: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a layer's class, as Keras 2 has them, from its stored configuration."""
    known = {name for c in LAYERS[kind].__mro__ for name in inspect.signature(c.__init__).parameters}
    settings = {}
    for key, value in config.items():
        key = _RENAMED.get((kind, key), key)
        end = key.rpartition("_")[2]
        if key == "dtype":
            _check_type(name, value)
        elif key in ("trainable", "seed") or key.startswith("batch_"):
            continue
        elif not all(abs(float(number)) <= LARGEST for number in np.ravel(value) if isinstance(number, Real)):
            raise StudyError(f"the layer {name!r} has the setting {key}={value!r:.60}: it is too large to be read")
        elif end in _OBJECTS and key in known:
            settings[key] = _object(name, key, value, _OBJECTS[end])
        elif key == "activation":
            settings[key] = _activation(name, value)
        elif key in known or key in _LAYER_SETTINGS:
            settings[key] = value
        elif value in (None, False, "channels_last") or key.startswith("renorm"):
            continue
        elif value != _AS_EVER.get((kind, key), "channels_last"):
            raise StudyError(f"the layer {name!r} has the setting {key}={value!r}, which Keras 2 has not")
    return settings


def _activation(name: str, value: Any) -> str:
    if value == "hard_sigmoid":
        raise StudyError(f"the layer {name!r} has the activation hard_sigmoid, which Keras 2 and 3 compute differently")
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        shown = value.get("registered_name") or value.get("config") if isinstance(value, Mapping) else value
        raise StudyError(f"the layer {name!r} has the activation {shown!r}, which is none of Keras's own")
    return value


def _object(name: str, key: str, value: Any, module: Any) -> Any:
    """Return a stored initialiser, regularizer or constraint of Keras's own, without a seed."""
    if value is None:
        return None
    kind, config = (value, {}) if isinstance(value, str) else (value.get("class_name"), value.get("config", {}))
    found = getattr(module, str(kind), None)
    if not (inspect.isclass(found) and found.__module__.startswith("keras.")) or not _is_kerass(value):
        raise StudyError(f"the layer {name!r} has the {key} {kind!r}, which is none of Keras's own")
    known = inspect.signature(found.__init__).parameters
    return found(**{k: v for k, v in config.items() if k in known and k != "seed"})


def _check_type(name: str, value: Any) -> None:
    kind = value.get("config", {}).get("name") if isinstance(value, Mapping) else value
    if kind not in ("float32", None):
        raise StudyError(f"the layer {name!r} is of the type {kind}: it must be float32")


def _is_kerass(part: Any) -> bool:
    """Return whether a stored object names a class of Keras's own."""
    if not isinstance(part, Mapping):
        return True
    if part.get("registered_name") not in (None, "", part.get("class_name")):
        return False
    return (part.get("module") or "keras").partition(".")[0] in ("keras", "tf_keras")


def _named(part: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(part, Mapping) or not isinstance(part.get("class_name"), str) or "config" not in part:
        raise StudyError(f"its description has a {what} without a class_name and a config")
    return part


def _input_shape(config: Mapping[str, Any]) -> list | None:
    return config.get("batch_shape") or config.get("batch_input_shape")
