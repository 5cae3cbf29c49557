"""Keras's `fit` as a contestant: how most people would train these CNNs."""

from typing import Any

import keras
import tensorflow as tf

from benchmarks.inputs import BATCH, CLASSES, RATE, SIDE, inputs
from benchmarks.worker import Task
from cnnsim_tf.cnn import reference_cnn


def fit(n: int, **options: Any) -> dict[str, Task]:
    """Return the training of one CNN; options are those of `compile`.

    Without the accuracy that the project's engines count, and without their deterministic operations.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(1)  # the shuffles are Keras's own
    given = inputs(n, 1)
    model = reference_cnn(SIDE, CLASSES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE, epsilon=1e-8), loss, **options)
    model.set_weights([w[0] for w in given.weights])
    images, labels = given.images[0][..., None], given.labels[0]

    def train(epochs: int) -> list[float]:
        return model.fit(images, labels, BATCH, epochs, verbose=0).history["loss"]

    return {"train": Task(n, train)}
