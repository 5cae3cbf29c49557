"""Small CNNs as plain values: which Keras models the fleet engine can train, layer by layer."""

from dataclasses import dataclass

import keras

from cnnsim_tf.models import chain


@dataclass(frozen=True)
class Conv:
    """Conv2D with stride 1 and without activation: `pads` are rows above, rows below, columns left and right."""

    kernel: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class Pool:
    """MaxPool2D whose windows do not overlap; rows and columns that fill no window are left out."""

    size: tuple[int, int]


@dataclass(frozen=True)
class Relu:
    """max(x, 0); the gradient at 0 is 0."""


@dataclass(frozen=True)
class Flatten:
    """From [M, C, H, W, B] to [M, H·W·C, B], in the order that Keras flattens in."""


@dataclass(frozen=True)
class Dense:
    """Matrix product with [inputs, units] and, if there is one, a bias."""


@dataclass(frozen=True)
class Scale:
    """scale · x + offset."""

    scale: float
    offset: float


Layer = Conv | Pool | Relu | Flatten | Dense | Scale


@dataclass(frozen=True)
class Network:
    """What `logits` computes: layers, how many weights each one has, and all weights' shapes in Keras's order."""

    layers: tuple[Layer, ...]
    counts: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


def network(model: keras.Model) -> Network | str:
    """Return a built Keras model as layers of this module, or one sentence that says why it cannot be."""
    found = chain(model)
    if isinstance(found, str):
        return found
    layers: list[Layer] = []
    counts: list[int] = []
    for keras_layer in found:
        translated = _translated(keras_layer)
        if isinstance(translated, str):
            return f"layer {keras_layer.name!r} {translated}"
        layers += translated
        counts += [len(keras_layer.weights), *[0] * (len(translated) - 1)] if translated else []
    for at in range(len(layers) - 1):  # the maximum of ReLUs is the ReLU of the maximum, which has fewer elements
        if isinstance(layers[at], Relu) and isinstance(layers[at + 1], Pool):
            layers[at : at + 2] = layers[at + 1], layers[at]
    if model.output_shape[1:] != (model.output_shape[-1],):
        return f"its output {model.output_shape} is not one row of logits per image"
    return Network(tuple(layers), tuple(counts), tuple(tuple(w.shape) for w in model.weights))


def _translated(layer: keras.layers.Layer) -> list[Layer] | str:
    """Return the layers that a Keras layer stands for, or the end of a sentence that begins with it."""
    kind, config = type(layer), layer.get_config()
    if layer.compute_dtype != "float32":
        return f"computes in {layer.compute_dtype}, not in float32"
    if any(
        config.get(f"{part}_{what}")
        for part in ("kernel", "bias", "activity")
        for what in ("regularizer", "constraint")
    ):
        return "has a regularizer or a constraint"
    if config.get("activation", "linear") not in ("linear", "relu"):
        return f"has the activation {config['activation']!r}, neither 'relu' nor 'linear'"
    relu: list[Layer] = [Relu()] if config.get("activation") == "relu" else []
    if kind is keras.layers.Activation:
        return relu
    if kind is keras.layers.ReLU:
        plain = not (config["max_value"] or config["negative_slope"] or config["threshold"])
        return [Relu()] if plain and config["max_value"] is None else "is a ReLU with options"
    if kind is keras.layers.Rescaling:
        plain = isinstance(layer.scale, (int, float)) and isinstance(layer.offset, (int, float))
        return [Scale(float(layer.scale), float(layer.offset))] if plain else "rescales channels differently"
    if kind is keras.layers.Flatten:
        return [Flatten()] if len(layer.input_shape) == 4 else "flattens something else than feature maps"
    if kind is keras.layers.Dense:
        return [Dense(), *relu] if len(layer.input_shape) == 2 else "is dense on something not flattened"
    if kind is keras.layers.MaxPool2D:
        if config["strides"] != config["pool_size"] or config["padding"] != "valid":
            return "pools with strides other than its size or with padding"
        return [Pool(tuple(config["pool_size"]))] if config["data_format"] == "channels_last" else "has channels first"
    if kind is keras.layers.Conv2D:
        if max(*config["strides"], *config["dilation_rate"], config["groups"]) > 1:
            return "has strides, dilation or groups other than 1"
        if config["data_format"] != "channels_last" or config["padding"] not in ("same", "valid"):
            return "has channels first or another padding than 'same' and 'valid'"
        rows, columns = config["kernel_size"]
        pads = ((rows - 1) // 2, rows // 2, (columns - 1) // 2, columns // 2)
        return [Conv((rows, columns), pads if config["padding"] == "same" else (0, 0, 0, 0)), *relu]
    return f"is a {kind.__name__}, which the fleet engine does not have"
