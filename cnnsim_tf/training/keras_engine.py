"""Trains Keras models side by side: one graph holds a step of every model, and TensorFlow runs them on all cores."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.images import with_channels
from cnnsim_tf.models import build, minimised_loss
from cnnsim_tf.random_layers import Draws, int32_seeds

EVALUATION_BATCH = 500  # images; larger ones leave the cache and are slower on CPUs


@lru_cache(maxsize=64)
def keras_engine(
    cnn: str, side: int, classes: int, count: int, batch_size: int, learning_rate: float, thread: int, channels: int = 1
) -> "KerasEngine":
    """Return a thread's own engine for these settings; tracing its graph takes seconds, so that it is kept."""
    return KerasEngine(cnn, side, classes, count, batch_size, learning_rate, channels)


class KerasEngine:
    """M Keras models with an Adam optimizer each.

    A class since Keras models and optimizers hold their state in variables; `start` resets all of it.
    """

    def __init__(
        self,
        cnn: str,
        side: int,
        classes: int,
        count: int,
        batch_size: int,
        learning_rate: float,
        channels: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.models = [build(cnn, side, classes, channels) for _ in range(count)]
        self.draws = [Draws(model) for model in self.models]
        self._seeds, self._steps = np.zeros(count, np.int32), 0  # of random layers; trained since the start
        self.optimizers = [
            keras.optimizers.Adam(learning_rate, 0.9, 0.999, epsilon=1e-8, jit_compile=False) for _ in range(count)
        ]
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            optimizer.build(model.trainable_variables)
        self._fresh_state = [[v.numpy() for v in optimizer.variables] for optimizer in self.optimizers]

    def start(self, weights: Sequence[np.ndarray], seeds: Sequence[int] = ()) -> None:
        """Give every model its weights, [M, ...] each in Keras's order, and forget all optimizer state.

        Args:
            weights: of the models.
            seeds: [M] of 32 bits, of what random layers draw in training; by default 0.
        """
        self._seeds, self._steps = int32_seeds(seeds or [0] * len(self.models)), 0
        for m, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
            model.set_weights([w[m] for w in weights])
            for variable, value in zip(optimizer.variables, self._fresh_state[m], strict=True):
                variable.assign(value)

    def weights(self) -> list[np.ndarray]:
        """Return the models' weights, [M, ...] each in Keras's order."""
        return [np.stack(w) for w in zip(*(model.get_weights() for model in self.models), strict=True)]

    def put(self, images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[list, list]:
        """Return one or M data sets as tensors where the models train."""
        return [tf.constant(with_channels(to_unit(x))) for x in images], [tf.constant(y) for y in labels]

    def put_order(self, order: np.ndarray) -> tf.Tensor:
        """Return an epoch's order [M, N] as a tensor."""
        return tf.constant(order, tf.int32)

    def run(self, data: tuple[list, list], order: tf.Tensor, first: int, last: int) -> list[np.ndarray]:
        """Train batches `first` to `last` (exclusive) of an epoch.

        Returns:
            Sums over their images: of losses [M], of correct predictions [M], of images [M].
        """
        before, self._steps = self._steps - first, self._steps + last - first
        steps = tf.constant(first), tf.constant(last), tf.constant(before)
        return [t.numpy() for t in self._run(*data, order, *steps, tf.constant(self._seeds))]

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean loss [M] and accuracy in percent [M] on images [T, side, side] or [T, side, side, 3]."""
        sums = [np.zeros(len(self.models)), np.zeros(len(self.models))]
        for first in range(0, len(images), EVALUATION_BATCH):
            part = slice(first, first + EVALUATION_BATCH)
            for total, value in zip(sums, self._evaluate(with_channels(images[part]), labels[part]), strict=True):
                total += value.numpy()
        return sums[0] / len(images), 100 * sums[1] / len(images)

    @tf.function(reduce_retracing=True)
    def _run(self, images: list, labels: list, order: Any, first: Any, last: Any, before: Any, seeds: Any) -> Any:
        n = tf.shape(order)[1]
        losses, correct, passed = (tf.zeros(len(self.models)) for _ in range(3))
        for step in tf.range(first, last):
            begin = step * self.batch_size
            batch = order[:, begin : tf.minimum(begin + self.batch_size, n)]
            each = []
            for m, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
                x = tf.gather(images[m if len(images) > 1 else 0], batch[m])
                y = tf.gather(labels[m if len(labels) > 1 else 0], batch[m])
                self.draws[m].begin(seeds[m], before + step)
                with tf.GradientTape() as tape:
                    logits = model(x, training=True)
                    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
                    minimised = minimised_loss(loss, model)
                gradients = tape.gradient(minimised, model.trainable_variables)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
                each.append((tf.reduce_sum(loss), _correct(logits, y)))
            losses += tf.stack([e[0] for e in each])
            correct += tf.stack([e[1] for e in each])
            passed += tf.cast(tf.shape(batch)[1], tf.float32)
        return losses, correct, passed

    @tf.function(reduce_retracing=True)
    def _evaluate(self, images: Any, labels: Any) -> Any:
        each = []
        for model in self.models:
            logits = model(images, training=False)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            each.append((tf.reduce_sum(loss), _correct(logits, labels)))
        return tf.stack([e[0] for e in each]), tf.stack([e[1] for e in each])


def _correct(logits: Any, labels: Any) -> Any:
    return tf.reduce_sum(tf.cast(tf.equal(tf.argmax(logits, 1, tf.int32), labels), tf.float32))
