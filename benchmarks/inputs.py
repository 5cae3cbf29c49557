"""What every contestant is given: the same images, initial weights and orders. It imports numpy and nothing larger."""

from dataclasses import dataclass

import numpy as np

from cnnsim_tf.datasets import Arrays, load, to_unit

BATCH, RATE = 64, 1e-3
CLASSES, SIDE = 10, 28
# Of the reference CNN's layers: kernel shapes in Keras's layout, and from how many inputs each output is computed.
LAYERS = (((3, 3, 1, 2), 9), ((3, 3, 2, 4), 18), ((196, 16), 196), ((16, 10), 16))


@dataclass(frozen=True)
class Inputs:
    """What M models of the reference CNN train on, n images each."""

    images: list[np.ndarray]  # M of [n, 28, 28] float32 in [-1, 1]
    labels: list[np.ndarray]  # M of [n] int32
    weights: list[np.ndarray]  # initial ones in Keras's order, each [M, ...] float32

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the images in an epoch (from 0), a fresh shuffle for each model, [M, n] int32."""
        n = len(self.labels[0])
        models = range(len(self.images))
        return np.stack([np.random.default_rng((m, epoch)).permutation(n) for m in models]).astype(np.int32)


def inputs(n: int, models: int) -> Inputs:
    """Return the inputs: model m trains on the m-th n training images of MNIST, so that model 0 is everyone's."""
    mnist = load("mnist")
    parts = [slice(m * n, (m + 1) * n) for m in range(models)]
    weights = [np.stack(w) for w in zip(*map(_initial_weights, range(models)), strict=True)]
    return Inputs([to_unit(mnist.x_train[p]) for p in parts], [mnist.y_train[p].copy() for p in parts], weights)


def few_images() -> Arrays:
    """Return the first images of MNIST, as a data set for whole studies that take seconds (`--quick`)."""
    mnist = load("mnist")
    return (mnist.x_train[:600], mnist.y_train[:600]), (mnist.x_test[:200], mnist.y_test[:200])


def _initial_weights(seed: int) -> list[np.ndarray]:
    """Return weights uniform in ±1/√inputs, as the reference CNN's own initialisers draw them."""
    rng, weights = np.random.default_rng(seed), []
    for shape, count in LAYERS:
        bound = count**-0.5
        weights += [rng.uniform(-bound, bound, s).astype(np.float32) for s in (shape, shape[-1:])]
    return weights
