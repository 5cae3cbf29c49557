"""The networks that a study can be of: their registry, and the reference CNN."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cnnsim_tf.registry import Registry

if TYPE_CHECKING:
    import keras

# Takes the side of the square images, the number of classes and, if it has a parameter of that name, `channels`: 1 of
# grey images, 3 of colour images. Returns a built, not compiled model from images [N, side, side, channels] float32 in
# [-1, 1] to logits [N, classes].
CnnBuilder = Callable[..., "keras.Model"]
CNNS: Registry[CnnBuilder] = Registry("CNN")


def takes_channels(builder: CnnBuilder) -> bool:
    """Tell whether a function that makes CNNs is to be given the number of channels."""
    try:
        return "channels" in inspect.signature(builder).parameters
    except (TypeError, ValueError):  # of what has no signature that could be seen
        return False


@CNNS.register("reference")
def reference_cnn(side: int, classes: int, channels: int = 1) -> "keras.Model":
    """Return the study's CNN: two small convolutions and two dense layers, 3,418 parameters for MNIST.

    Kernels and biases start uniform in ±1/√fan_in, convolutions and dense layers alike (PyTorch's default, which
    the published study used).
    """
    import keras  # here, since it takes seconds

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, channels), name="image"),
            layers.Conv2D(2, 3, padding="same", activation="relu", name="conv1", **_uniform(9 * channels)),
            layers.MaxPool2D(2, name="pool1"),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2", **_uniform(9 * 2)),
            layers.MaxPool2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(16, activation="relu", name="dense1", **_uniform((side // 2 // 2) ** 2 * 4)),
            layers.Dense(classes, name="logits", **_uniform(16)),
        ],
        name="reference",
    )


def _uniform(fan_in: int) -> dict[str, "keras.initializers.Initializer"]:
    import keras

    bound = 1 / np.sqrt(fan_in)
    return {
        "kernel_initializer": keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
    }
