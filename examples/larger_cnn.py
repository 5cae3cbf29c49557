"""A CNN four times as wide as the reference: mlflow run . -e warmstart -P cnn=examples.larger_cnn:cnn."""

import keras


def cnn(side: int, classes: int, channels: int = 1) -> keras.Model:
    """Return a CNN of 8 and 16 filters and 64 dense units, from [N, side, side, channels] to logits."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, channels)),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPool2D(),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPool2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="dense1"),
            layers.Dense(classes, name="logits"),
        ]
    )
