r"""Colour digits, made offline, and a CNN with batch normalisation and dropout.

mlflow run . -e warmstart -P dataset=examples.colour:digits -P cnn=examples.colour:cnn \
    -P registered_model=colour -P repeats=3
"""

import keras
import numpy as np

from cnnsim_tf.datasets import load

SIDE, TRAIN, TEST = 32, 6_000, 1_000


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return MNIST's first digits, tinted, over textured backgrounds, uint8 [N, 32, 32, 3], and their labels."""
    mnist, rng = load("mnist"), np.random.default_rng(20)
    return (
        (tinted(mnist.x_train[:TRAIN], rng), mnist.y_train[:TRAIN]),
        (tinted(mnist.x_test[:TEST], rng), mnist.y_test[:TEST]),
    )


def tinted(
    images: np.ndarray, rng: np.random.Generator, ink_colour: tuple[float, float, float] | None = None
) -> np.ndarray:
    """Return digits [N, 28, 28] uint8 over a texture of two colours, [N, 32, 32, 3] uint8.

    They have a colour each, or all the same, red, green and blue from 0 to 1.
    """
    ink = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None] / 255
    n = len(images)
    digit, *ground = rng.uniform(0, 1, (3, n, 1, 1, 3))
    digit = (
        0.6 + 0.4 * digit if ink_colour is None else np.array(ink_colour)
    )  # light digits on a dark ground, as in MNIST
    coarse = rng.uniform(0, 1, (n, SIDE // 4, SIDE // 4, 1)).repeat(4, 1).repeat(4, 2)
    texture = 0.45 * (coarse * ground[0] + (1 - coarse) * ground[1])
    return np.round(255 * (ink * digit + (1 - ink) * texture)).astype(np.uint8)


def cnn(side: int, classes: int, channels: int = 3) -> keras.Model:
    """Return a CNN of some 50,000 parameters, from [N, side, side, channels] to logits."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((side, side, channels))])
    for number, filters in enumerate((8, 16, 32), 1):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}"))
        # A momentum for short trainings: statistics settle within some dozens of batches, not hundreds.
        model.add(layers.BatchNormalization(momentum=0.9, name=f"norm{number}"))
        model.add(layers.ReLU())
        model.add(layers.MaxPool2D())
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(80, activation="relu", name="dense1"))
    model.add(layers.Dense(classes, name="logits"))
    return model
