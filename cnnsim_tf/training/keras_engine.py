"""Trains Keras models side by side, with Keras's own layers: all share one model and its graphs, or one per thread."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.images import with_channels
from cnnsim_tf.models import build, minimised_loss
from cnnsim_tf.process.limits import cores
from cnnsim_tf.random_layers import Draws, int32_seeds
from cnnsim_tf.training.jobs import finish

EVALUATION_BATCH = 500  # images; larger ones leave the cache and are slower on CPUs


class KerasEngine:
    """M CNNs of one architecture with an Adam optimizer each.

    A class since it has FleetEngine's methods; `start` resets all state. Results do not depend on `threads`.
    """

    def __init__(
        self,
        cnn: str,
        side: int,
        classes: int,
        count: int,
        batch_size: int,
        learning_rate: float,
        threads: int | None = None,
        channels: int = 1,
    ) -> None:
        self._kind = cnn, side, classes, channels
        self._settings = tf.constant(batch_size), tf.constant(learning_rate, tf.float32)
        self.count, self.threads = count, threads or cores()
        self._state: list[tuple[list[Any], list[Any]]] = []  # per model: weights and the optimizer's variables
        self._seeds, self._steps = np.zeros(count, np.int32), 0  # of random layers; trained since the start

    def start(self, weights: Sequence[np.ndarray], seeds: Sequence[int] = ()) -> None:
        """Give every model its weights, [M, ...] each in Keras's order, and forget all optimizer state.

        Args:
            weights: of the models.
            seeds: [M] of 32 bits, of what random layers draw in training; by default 0.
        """
        self._seeds, self._steps = int32_seeds(seeds or [0] * self.count), 0
        self._state = [([tf.constant(w[m], tf.float32) for w in weights], []) for m in range(self.count)]

    def weights(self) -> list[np.ndarray]:
        """Return the models' weights, [M, ...] each in Keras's order."""
        return [np.stack([t.numpy() for t in w]) for w in zip(*(weights for weights, _ in self._state), strict=True)]

    def put(self, images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[list, list]:
        """Return one or M data sets as tensors where the models train."""
        return [tf.constant(with_channels(to_unit(x))) for x in images], [tf.constant(y) for y in labels]

    def put_order(self, order: np.ndarray) -> list[Any]:
        """Return an epoch's order [M, N] as a tensor per model."""
        return [tf.constant(each, tf.int32) for each in order]

    def run(self, data: tuple[list, list], order: Sequence[Any], first: int, last: int) -> list[np.ndarray]:
        """Train batches `first` to `last` (exclusive) of an epoch.

        Returns:
            Sums over their images: of losses [M], of correct predictions [M], of images [M].
        """
        before, self._steps = self._steps - first, self._steps + last - first
        steps = tf.constant(first), tf.constant(last), tf.constant(before)
        sums = np.zeros((3, self.count), np.float32)

        def train(m: int) -> Iterator[None]:
            images, labels = (each[m if len(each) > 1 else 0] for each in data)
            with _graphs(*self._kind) as graphs:
                weights, optimizer = self._state[m]
                given = images, labels, order[m], *steps, tf.constant(self._seeds[m]), *self._settings
                weights, optimizer, passed = graphs.train(weights, optimizer or graphs.fresh_optimizer, *given)
            self._state[m] = weights, optimizer
            sums[:, m] = [each.numpy() for each in passed]
            yield

        finish([train(m) for m in range(self.count)], self.threads)
        return list(sums)

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean loss [M] and accuracy in percent [M] on images [T, side, side] or [T, side, side, 3]."""
        sums = np.zeros((2, self.count))

        def evaluate(m: int) -> Iterator[None]:
            for first in range(0, len(images), EVALUATION_BATCH):
                part = slice(first, first + EVALUATION_BATCH)
                with _graphs(*self._kind) as graphs:
                    found = graphs.evaluate(self._state[m][0], with_channels(images[part]), labels[part])
                sums[:, m] += [each.numpy() for each in found]
                yield

        finish([evaluate(m) for m in range(self.count)], self.threads)
        return sums[0] / len(images), 100 * sums[1] / len(images)


@lru_cache(maxsize=64)
def _free(cnn: str, side: int, classes: int, channels: int) -> "deque[_Graphs]":
    """Return the graphs of such networks that no thread uses now; tracing them takes seconds, so that they are kept."""
    return deque()


@contextmanager
def _graphs(cnn: str, side: int, classes: int, channels: int) -> Iterator["_Graphs"]:
    """Give graphs that no other thread uses meanwhile."""
    free = _free(cnn, side, classes, channels)
    try:
        graphs = free.pop()
    except IndexError:
        graphs = _Graphs(cnn, side, classes, channels)
    try:
        yield graphs
    finally:
        free.append(graphs)


class _Graphs:
    """One Keras model and an Adam optimizer, with what trains and evaluates it, traced when it is first called.

    A class since both hold their state in variables. Every call sets all of it, and training returns it.
    """

    def __init__(self, cnn: str, side: int, classes: int, channels: int) -> None:
        self._model = model = build(cnn, side, classes, channels)
        self._draws = Draws(model)
        self._optimizer = keras.optimizers.Adam(1e-3, 0.9, 0.999, epsilon=1e-8, jit_compile=False)
        self._optimizer.build(model.trainable_variables)
        self.fresh_optimizer = [tf.zeros_like(v) for v in self._optimizer.variables]
        parts = model.weights, self._optimizer.variables
        weights, optimizer = ([tf.TensorSpec(v.shape, v.dtype) for v in part] for part in parts)
        images = tf.TensorSpec((None, side, side, channels))
        labels, order = (tf.TensorSpec((None,), tf.int32) for _ in range(2))
        numbers = [tf.TensorSpec((), tf.int32)] * 5
        self.train = tf.function(self._train, [weights, optimizer, images, labels, order, *numbers, tf.TensorSpec(())])
        self.evaluate = tf.function(self._evaluate, [weights, images, labels])

    def _train(
        self,
        weights: list,
        optimizer: list,
        images: Any,
        labels: Any,
        order: Any,
        first: Any,
        last: Any,
        before: Any,
        seed: Any,
        batch_size: Any,
        rate: Any,
    ) -> tuple[list, list, tuple]:
        """Return weights, the optimizer's variables, and the sums of losses, correct predictions and images."""
        model = self._model
        _set(model.weights, weights)
        _set(self._optimizer.variables, optimizer)
        self._optimizer.learning_rate.assign(rate)
        n, losses, correct, passed = tf.shape(order)[0], 0.0, 0.0, 0.0
        for step in tf.range(first, last):
            begin = step * batch_size
            batch = order[begin : tf.minimum(begin + batch_size, n)]
            x, y = tf.gather(images, batch), tf.gather(labels, batch)
            self._draws.begin(seed, before + step)
            with tf.GradientTape() as tape:
                logits = model(x, training=True)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
                minimised = minimised_loss(loss, model)
            gradients = tape.gradient(minimised, model.trainable_variables)
            self._optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            losses += tf.reduce_sum(loss)
            correct += _correct(logits, y)
            passed += tf.cast(tf.shape(batch)[0], tf.float32)
        weights, optimizer = ([tf.identity(v) for v in part] for part in (model.weights, self._optimizer.variables))
        return weights, optimizer, (losses, correct, passed)

    def _evaluate(self, weights: list, images: Any, labels: Any) -> tuple[Any, Any]:
        """Return the sums of losses and of correct predictions."""
        _set(self._model.weights, weights)
        self._draws.begin(tf.constant(0), tf.constant(0))
        logits = self._model(images, training=False)
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)), _correct(logits, labels)


def _set(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _correct(logits: Any, labels: Any) -> Any:
    return tf.reduce_sum(tf.cast(tf.equal(tf.argmax(logits, 1, tf.int32), labels), tf.float32))
