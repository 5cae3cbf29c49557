"""Gradients of the cross-entropy: batch by batch at fixed weights, and their norms at the first training steps."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnnsim_tf.activations import weighted_layers
from cnnsim_tf.cnn import build


def batch_gradients(
    cnn: str,
    weights: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    batch_size: int,
) -> Iterator[list[np.ndarray]]:
    """Yield the gradient of the mean cross-entropy over each consecutive batch, at weights that stay as they are.

    Args:
        cnn: name of the architecture.
        weights: of one network in Keras's weight order, float32.
        images: [N, side, side] float32 in [-1, 1].
        labels: [N] int32.
        classes: number of outputs.
        batch_size: images per batch; the last short batch is included.

    Yields:
        Gradients (nats per unit of weight) with respect to the weights, in their order and shapes, float32.
    """
    values = [tf.constant(w, tf.float32) for w in weights]
    for first in range(0, len(labels), batch_size):
        part = slice(first, first + batch_size)
        # Looked up for every batch: between two batches another thread may take the iterator over.
        network = _network(cnn, images.shape[-1], classes)
        yield [g.numpy() for g in network.gradients(values, images[part], labels[part])]


def first_gradient_norms(
    cnn: str,
    weights: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    *,
    classes: int,
    batch_size: int,
    learning_rate: float,
    steps: int,
) -> np.ndarray:
    """Return the Euclidean norms of the gradients at the first training steps, layer by layer.

    The networks are trained one after the other as `cnnsim_tf.training.train` trains them: Adam with β = (0.9, 0.999),
    ε = 1e-8, on the mean cross-entropy of consecutive batches of `order`.

    Args:
        cnn: name of the architecture.
        weights: of M networks in Keras's weight order, each [M, ...] float32, before training.
        images: [N, side, side] float32 in [-1, 1].
        labels: [N] int32.
        order: of the images in the first epoch, [M, N] or one [N] that all networks share, int32.
        classes: number of outputs.
        batch_size: images per step.
        learning_rate: of Adam.
        steps: how many.

    Returns:
        Norms [M, steps, L] float64 (nats per unit of weight) of the L Conv2D and Dense layers, the first layer first,
        kernel and bias together. The first step's are taken at the initial weights. NaN for steps after the end of the
        epoch; not finite where training diverges.
    """
    network = _network(cnn, images.shape[-1], classes)
    count, n = len(weights[0]), steps * batch_size
    orders = np.broadcast_to(order, (count, order.shape[-1]))[:, :n]
    result = np.full((count, steps, len(network.positions)), np.nan)
    batch, rate = tf.constant(batch_size), tf.constant(learning_rate, tf.float32)
    for m in range(count):
        values = [tf.constant(w[m], tf.float32) for w in weights]
        norms = network.norms(values, images[orders[m]], labels[orders[m]], batch, rate).numpy()
        result[m, : len(norms)] = norms
    return result


class _Network:
    """One Keras model with an Adam optimizer.

    A class since Keras models and optimizers hold their state in variables. Every call sets all of it, so that nothing
    is left of the call before.
    """

    def __init__(self, cnn: str, side: int, classes: int) -> None:
        self._model = build(cnn, side, classes)
        self._optimizer = keras.optimizers.Adam(1e-3, 0.9, 0.999, epsilon=1e-8, jit_compile=False)
        self._optimizer.build(self._model.trainable_variables)
        at = {id(w): i for i, w in enumerate(self._model.weights)}
        self.positions = [[at[id(w)] for w in layer.weights] for layer in weighted_layers(self._model)]
        data = [
            [tf.TensorSpec(w.shape, w.dtype) for w in self._model.weights],
            tf.TensorSpec((None, side, side)),
            tf.TensorSpec((None,), tf.int32),
        ]
        settings = [tf.TensorSpec((), tf.int32), tf.TensorSpec(())]
        # One graph for any number of images.
        self.gradients = tf.function(self._give_gradients, input_signature=data)
        self.norms = tf.function(self._give_norms, input_signature=data + settings)

    gradients: Callable[..., list[Any]]  # of weights, images, labels: the gradients
    norms: Callable[..., Any]  # of weights, images, labels, batch size, learning rate: norms [steps, L]

    def _give_gradients(self, weights: list, images: Any, labels: Any) -> list[Any]:
        self._set(weights)
        return self._gradients(images, labels)

    def _give_norms(self, weights: list, images: Any, labels: Any, batch_size: Any, learning_rate: Any) -> Any:
        self._set(weights)
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self._optimizer.learning_rate.assign(learning_rate)
        n = tf.shape(labels)[0]
        norms = tf.TensorArray(tf.float64, 0, dynamic_size=True, element_shape=(len(self.positions),))
        for begin in tf.range(0, n, batch_size):
            batch = slice(begin, tf.minimum(begin + batch_size, n))
            gradients = self._gradients(images[batch], labels[batch])
            norms = norms.write(begin // batch_size, self._norms(gradients))
            self._optimizer.apply_gradients(zip(gradients, self._model.trainable_variables, strict=True))
        return norms.stack()

    def _gradients(self, images: Any, labels: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            logits = self._model(images[..., None], training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return tape.gradient(loss, self._model.trainable_variables, unconnected_gradients="zero")

    def _norms(self, gradients: list[Any]) -> Any:
        squares = [tf.reduce_sum(tf.cast(g, tf.float64) ** 2) for g in gradients]
        return tf.sqrt(tf.stack([tf.add_n([squares[i] for i in layer]) for layer in self.positions]))

    def _set(self, weights: list) -> None:
        for variable, value in zip(self._model.weights, weights, strict=True):
            variable.assign(value)


def _network(cnn: str, side: int, classes: int) -> _Network:
    """Return a network that no other thread uses; tracing its graphs takes a second, so that it is kept."""
    return _kept_network(cnn, side, classes, threading.get_ident())


@lru_cache(maxsize=64)
def _kept_network(cnn: str, side: int, classes: int, thread: int) -> _Network:
    return _Network(cnn, side, classes)
