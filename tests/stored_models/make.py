"""Makes the models of this folder, with the Keras that it is run with; 2.15 and 3.15.1 on JAX made those that are kept.

python make.py
"""

from pathlib import Path

import keras
import numpy as np

HERE, MAJOR = Path(__file__).parent, int(keras.__version__.partition(".")[0])
layers = keras.layers


def chain():
    """Return a chain that begins with a Normalization and ends with a softmax."""
    learned = layers.Normalization(name="learned")
    learned.adapt(np.random.default_rng(1).uniform(0, 255, (50, 8, 8, 3)).astype("float32"))
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            learned,
            layers.Conv2D(2, 3, use_bias=False, kernel_initializer=keras.initializers.HeNormal(seed=3), name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(2, 2, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(3, activation="softmax"),
        ]
    )


def branched():
    """Return a network with a model within, a layer that is used twice and a residual connection."""
    image = keras.Input((8, 8, 3))
    within = [keras.Input((8, 8, 3)), layers.RandomFlip("horizontal"), layers.Conv2D(4, 3, padding="same")]
    x = keras.Sequential([*within, layers.BatchNormalization()], name="within")(layers.Rescaling(1 / 255)(image))
    twice = layers.SeparableConv2D(4, 3, padding="same", activation="relu", depthwise_regularizer="l2")
    y = twice(layers.LeakyReLU(0.1)(twice(x)))
    y = layers.DepthwiseConv2D(3, padding="same", depthwise_constraint="max_norm")(y)
    y = layers.Activation("relu")(layers.BatchNormalization(scale=False)(layers.Add()([x, y])))
    y = layers.Concatenate()([layers.GlobalAveragePooling2D()(y), layers.GlobalMaxPooling2D()(y)])
    return keras.Model(image, layers.Dense(3)(y))


if __name__ == "__main__":
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype("float32")
    outputs = {}
    for make in (chain, branched):
        model, rng = make(), np.random.default_rng(2)
        for layer in model.layers:
            if layer.name != "learned":
                layer.set_weights([rng.uniform(0.1, 0.6, w.shape) for w in layer.get_weights()])
        outputs[make.__name__] = model.predict(images, verbose=0)
        for suffix in (".keras", ".h5") if MAJOR > 2 else (".keras", ".h5", ""):
            model.save(HERE / f"{make.__name__}_{MAJOR}{suffix}")
    np.savez(HERE / f"outputs_{MAJOR}.npz", images=images, **outputs)
