"""The networks: the reference CNN and how its fresh initial weights are drawn."""

import threading
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from cnnsim_tf.errors import StudyError
from cnnsim_tf.registry import Registry

# Takes the side of the square grey images and the number of classes; returns a built, not compiled model from
# images [N, side, side, 1] float32 in [-1, 1] to logits [N, classes].
CnnBuilder = Callable[[int, int], keras.Model]
CNNS: Registry[CnnBuilder] = Registry("CNN")

_ONE_AT_A_TIME = threading.RLock()  # seeds and layers' names are global state of Keras, and repeats run in threads


@CNNS.register("reference")
def reference_cnn(side: int, classes: int) -> keras.Model:
    """Return the study's CNN: two small convolutions and two dense layers, 3,418 parameters for MNIST.

    Kernels and biases start uniform in ±1/√fan_in, convolutions and dense layers alike (PyTorch's default, which
    the published study used).
    """
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1), name="image"),
            layers.Conv2D(2, 3, padding="same", activation="relu", name="conv1", **_uniform(9)),
            layers.MaxPool2D(2, name="pool1"),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2", **_uniform(9 * 2)),
            layers.MaxPool2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(16, activation="relu", name="dense1", **_uniform((side // 2 // 2) ** 2 * 4)),
            layers.Dense(classes, name="logits", **_uniform(16)),
        ],
        name="reference",
    )


def _uniform(fan_in: int) -> dict[str, keras.initializers.Initializer]:
    bound = 1 / np.sqrt(fan_in)
    return {
        "kernel_initializer": keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
    }


def build(name: str, side: int, classes: int) -> keras.Model:
    """Return a new model of a registered CNN or of a user's own.

    Layers without a name of their own are numbered from the start in every model (`conv2d`, `conv2d_1`, ...), so that
    they have the same names in every run.

    Raises:
        ParameterError: the name is unknown.
        StudyError: the function raises or does not return a model from [N, side, side, 1] to logits [N, classes],
            the model has weights that training by gradients does not reach, regularizers or random layers, or it has
            no Conv2D layer.
    """
    with _ONE_AT_A_TIME:
        keras.backend.reset_uids()  # else Keras goes on counting from the models that were built before
        model = CNNS.call(name, CNNS.get(name), side, classes)
    if not isinstance(model, keras.Model) or not model.built:
        raise StudyError(f"the CNN {name!r} returned {type(model).__name__}: it must return a built keras.Model")
    if model.input_shape != (None, side, side, 1) or model.output_shape != (None, classes):
        raise StudyError(
            f"the CNN {name!r} maps {model.input_shape} to {model.output_shape}: "
            f"it must map {(None, side, side, 1)} to {(None, classes)}"
        )
    if model.non_trainable_weights:
        raise StudyError(
            f"the CNN {name!r} has non-trainable weights ({model.non_trainable_weights[0].name}): "
            "layers such as batch normalisation are not supported"
        )
    if model.losses or any(getattr(layer, "activity_regularizer", None) for layer in model.layers):
        raise StudyError(f"the CNN {name!r} has regularizers: training knows only the cross-entropy, so leave them out")
    if random := [layer for layer in model.layers if hasattr(layer, "_random_generator")]:  # Keras's mark of them
        raise StudyError(
            f"the CNN {name!r} has the layer {random[0].name!r}, which draws random numbers: the study's seed does not "
            "reach them, so leave such layers (dropout, noise, augmentation) out"
        )
    if getattr(model.layers[-1], "activation", None) is keras.activations.softmax:
        raise StudyError(f"the CNN {name!r} ends in a softmax: it must return logits, so leave that activation out")
    if not conv_layers(model):
        raise StudyError(f"the CNN {name!r} has no Conv2D layer: there are no filters to compare")
    return model


def conv_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the model's Conv2D layers in the order in which data passes them."""
    # Not isinstance: a transposed convolution is a Conv2D to Keras, with its kernel's channels the other way round.
    return [layer for layer in model.layers if type(layer) is keras.layers.Conv2D]


def chain(model: keras.Model) -> list[keras.layers.Layer] | str:
    """Return the layers that data passes one after the other, or one sentence that says why there is no such chain."""
    if type(model) is not keras.Sequential and type(model) is not keras.Model and type(model).__name__ != "Functional":
        return f"the model is a {type(model).__name__}, neither Sequential nor functional"
    layers = [layer for layer in model.layers if type(layer) is not keras.layers.InputLayer]
    if type(model) is keras.Sequential:
        return layers
    tensor = model.input
    for layer in layers:
        if any(node.input_tensors is not tensor for node in layer.inbound_nodes):
            return f"layer {layer.name!r} does not follow the layer before it: the model is not a chain"
        tensor = layer.output
    return layers if tensor is model.output else "the model's output is not that of its last layer"


def fresh_weights(name: str, side: int, classes: int, seed: int) -> list[np.ndarray]:
    """Return initial weights as the model's own initialisers draw them, in Keras's weight order, float32.

    Keras seeds its initialisers from global state only, so that this sets the global seeds of Python, numpy and
    TensorFlow, on which nothing else here depends.

    Args:
        name: of the CNN.
        side: of the images in pixels.
        classes: number of outputs.
        seed: 32-bit; equal seeds give bit-identical weights on any device.
    """
    with _ONE_AT_A_TIME, tf.device("/CPU:0"):
        keras.utils.set_random_seed(seed)
        return [np.asarray(w, dtype=np.float32) for w in build(name, side, classes).get_weights()]


def pixel_model(model: keras.Model) -> keras.Model:
    """Return `model` with a Rescaling layer in front: from pixel values 0 to 255 instead of [-1, 1].

    It shares its weights with `model`, and its predictions are bit for bit those of `model` on scaled images.
    """
    pixels = keras.Input(model.input_shape[1:], name="image")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(pixels)
    for layer in model.layers if isinstance(model, keras.Sequential) else [model]:
        scaled = layer(scaled)
    return keras.Model(pixels, scaled, name="pixels_to_logits")
