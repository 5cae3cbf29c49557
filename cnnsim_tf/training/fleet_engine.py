"""Trains many small CNNs side by side with programs that XLA compiles once per architecture and batch size.

A program trains a chunk of steps: it is given images already shuffled, so that one program serves data sets of any
size. On a CPU it holds one CNN, and threads run the CNNs side by side; on a GPU it holds all of them.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.models import build
from cnnsim_tf.process.limits import cores
from cnnsim_tf.training.architecture import Network, network
from cnnsim_tf.training.batch_innermost import SHIFTED_WEIGHTS
from cnnsim_tf.training.programs import (
    EVALUATION_BATCH,
    chunk_steps,
    compile_now,
    evaluation_program,
    training_program,
)


def unsupported(cnn: str, side: int, classes: int) -> str | None:
    """Return why the fleet engine cannot train an architecture, or None if it can."""
    found = _network(cnn, side, classes)
    return found if isinstance(found, str) else None


def why_not_fleet(cnn: str, side: int, classes: int) -> str | None:
    """Return why the fleet engine cannot train an architecture or should not, in one sentence, or None.

    The rule: it pays as long as every convolution is a sum of shifted slices, that is, has at most SHIFTED_WEIGHTS
    weights. Images per CPU second of both engines, for networks of two convolutions and two dense layers: 2 and 4
    filters of 3x3, 141,000 against 32,000 of Keras's own layers; 4 and 8, 58,000 against 27,000; 8 and 16, 19,000
    against 22,000; 16 and 32, 8,000 against 18,000; 6 and 16 of 5x5, 4,000 against 17,000.
    """
    found = _network(cnn, side, classes)
    if isinstance(found, str):
        return found
    # A kernel's shape has four dimensions: height, width, channels, filters.
    largest = max((math.prod(shape) for shape in found.shapes if len(shape) == 4), default=0)
    if largest > SHIFTED_WEIGHTS:
        return f"a convolution has {largest:,} weights, and beyond {SHIFTED_WEIGHTS} Keras's own layers are faster"
    return None


@lru_cache
def _network(cnn: str, side: int, classes: int) -> Network | str:
    return network(build(cnn, side, classes))


class FleetEngine:
    """M CNNs of one architecture with an Adam optimizer each.

    A class since it has KerasEngine's methods; `start` resets all state. Results do not depend on `threads`. Engines
    of one architecture and batch size share what is compiled.
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
    ) -> None:
        found = _network(cnn, side, classes)
        if isinstance(found, str):
            raise ValueError(f"the fleet engine cannot train the CNN {cnn!r}: {found}")
        self.network, self.side, self.count, self.batch_size = found, side, count, batch_size
        self.learning_rate = learning_rate
        self.threads = threads or cores()
        self.on_gpu = bool(tf.config.get_visible_devices("GPU"))
        self._chunk = chunk_steps(side, batch_size)
        size = count if self.on_gpu else 1
        self._groups = [slice(m, m + size) for m in range(0, count, size)]
        self._state: list[list[Any]] = []  # per group: weights, first and second moments, each [models, P]
        self._steps = 0

    def compile(self) -> None:
        """Compile the programs of training and evaluation, which is otherwise done when they are first called."""
        models = self._groups[0].stop
        train = training_program(self.network, self.side, self.batch_size, models)
        evaluate = evaluation_program(self.network, self.side, models)  # both are there before one takes a second
        compile_now(train)
        compile_now(evaluate)

    def start(self, weights: Sequence[np.ndarray]) -> None:
        """Give every model its weights, [M, ...] each in Keras's order, and forget all optimizer state."""
        flat = np.concatenate([np.asarray(w, np.float32).reshape(self.count, -1) for w in weights], axis=1)
        zeros = np.zeros_like(flat)
        self._state = [[tf.constant(x[group]) for x in (flat, zeros, zeros)] for group in self._groups]
        self._steps = 0

    def weights(self) -> list[np.ndarray]:
        """Return the models' weights, [M, ...] each in Keras's order."""
        flat = np.concatenate([state[0].numpy() for state in self._state])
        ends = np.cumsum([math.prod(shape) for shape in self.network.shapes])
        parts = np.split(flat, ends[:-1], axis=1)
        return [part.reshape(self.count, *shape) for part, shape in zip(parts, self.network.shapes, strict=True)]

    def put(self, images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[list, list]:
        """Return one or M data sets where the models train: on a CPU the arrays themselves, without a copy."""
        kinds = [None if x.dtype == np.uint8 else np.float32 for x in images]
        rows = [np.ascontiguousarray(x, kind).reshape(len(x), -1) for x, kind in zip(images, kinds, strict=True)]
        targets = [np.ascontiguousarray(y, np.int32) for y in labels]
        return (
            ([tf.constant(to_unit(x)) for x in rows], [tf.constant(y) for y in targets])
            if self.on_gpu
            else (rows, targets)
        )

    def put_order(self, order: np.ndarray) -> np.ndarray:
        """Return an epoch's order [M, N] as `run` takes it."""
        return np.asarray(order, np.int32)

    def run(self, data: tuple[list, list], order: np.ndarray, first: int, last: int) -> list[np.ndarray]:
        """Train batches `first` to `last` (exclusive) of an epoch.

        Returns:
            Sums over their images: of losses [M], of correct predictions [M], of images [M].
        """
        sums = np.zeros((2, self.count))
        finish([self._train(at, data, order, first, last, sums) for at in range(len(self._groups))], self.threads)
        self._steps += last - first
        passed = min(last * self.batch_size, order.shape[1]) - first * self.batch_size
        return [*sums.astype(np.float32), np.full(self.count, passed, np.float32)]

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean loss [M] and accuracy in percent [M] on images [T, side, side]."""
        sums = np.zeros((2, self.count))
        cuts = _cuts(len(images), EVALUATION_BATCH * chunk_steps(self.side, EVALUATION_BATCH))
        chunks = [_chunk_to_evaluate(images[i:j], labels[i:j]) for i, j in cuts]
        finish([self._evaluate(at, chunks, sums) for at in range(len(self._groups))], self.threads)
        return sums[0] / len(images), 100 * sums[1] / len(images)

    def _train(
        self, at: int, data: tuple[list, list], order: np.ndarray, first: int, last: int, sums: np.ndarray
    ) -> Iterator[None]:
        """Train one group of models, a chunk of steps at a time, and add to its sums."""
        group, state, n = self._groups[at], self._state[at], order.shape[1]
        program = training_program(self.network, self.side, self.batch_size, group.stop - group.start)
        for begin, end in _cuts(last, self._chunk, first):
            index = np.zeros((group.stop - group.start, self._chunk * self.batch_size), np.int32)
            taken = order[group, begin * self.batch_size : end * self.batch_size]
            index[:, : taken.shape[1]] = taken
            sizes = np.clip(n - self.batch_size * np.arange(begin, begin + self._chunk), 1, self.batch_size)
            images, labels = self._gathered(data, index, group)
            before = self._steps + begin - first
            loss, correct, *state = program(
                images, labels, sizes.astype(np.int32), end - begin, before, self.learning_rate, *state
            )
            self._state[at] = state
            sums[0, group] += loss.numpy()
            sums[1, group] += correct.numpy()
            yield

    def _gathered(self, data: tuple[list, list], index: np.ndarray, group: slice) -> tuple[Any, Any]:
        """Return a chunk of each model's data set, or of the shared one, as the training program takes it.

        The transposition is not left to XLA on CPUs, where numpy takes two thirds of its time.
        """
        models, batches = len(index), index.reshape(len(index), self._chunk, self.batch_size)
        images, labels = (sets[group] if len(sets) > 1 else sets * models for sets in data)
        if self.on_gpu:
            x = tf.stack([tf.gather(x, i) for x, i in zip(images, batches, strict=True)])
            y = tf.stack([tf.gather(y, i) for y, i in zip(labels, batches, strict=True)])
            x = tf.transpose(x, (0, 1, 3, 2))
        else:
            rows = np.empty((models, self._chunk, images[0].shape[1], self.batch_size), np.float32)
            for of_model, source, each in zip(rows, images, batches, strict=True):
                for step, batch in zip(of_model, each, strict=True):
                    step[:] = to_unit(source[batch]).T
            x = tf.constant(rows)
            y = tf.constant(np.stack([y[i] for y, i in zip(labels, batches, strict=True)]))
        return tf.reshape(x, (models, self._chunk, self.side, self.side, self.batch_size)), y

    def _evaluate(self, at: int, chunks: list[list[Any]], sums: np.ndarray) -> Iterator[None]:
        """Evaluate one group of models, a chunk of images at a time, and add to its sums."""
        group = self._groups[at]
        program = evaluation_program(self.network, self.side, group.stop - group.start)
        for chunk in chunks:
            loss, correct = program(*chunk, self._state[at][0])
            sums[0, group] += loss.numpy()
            sums[1, group] += correct.numpy()
            yield


def finish(jobs: Sequence[Iterator[None]], threads: int) -> None:
    """Run iterators to their ends in so many threads.

    Each thread takes the iterator that has waited longest and advances it by one item, so that all of them end at
    about the same time, whatever their number.
    """
    waiting = deque(jobs)

    def work() -> None:
        while waiting:
            try:
                job = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            for _ in job:
                waiting.append(job)
                break

    with ThreadPoolExecutor(min(threads, len(jobs))) as pool:
        try:
            for future in [pool.submit(work) for _ in range(min(threads, len(jobs)))]:
                future.result()
        except BaseException:
            waiting.clear()  # the other threads stop after their items
            raise


def _cuts(end: int, size: int, begin: int = 0) -> list[tuple[int, int]]:
    return [(at, min(at + size, end)) for at in range(begin, end, size)]


def _chunk_to_evaluate(images: np.ndarray, labels: np.ndarray) -> list[Any]:
    """Return up to chunk_steps batches as the evaluation program takes them: batch innermost, padded with zeros."""
    chunk = chunk_steps(images.shape[1], EVALUATION_BATCH)
    rows = chunk * EVALUATION_BATCH
    x = np.zeros((rows, *images.shape[1:]), np.float32)
    y = np.zeros(rows, np.int32)
    x[: len(images)], y[: len(labels)] = images, labels
    x = np.ascontiguousarray(x.reshape(chunk, EVALUATION_BATCH, *x.shape[1:]).transpose(0, 2, 3, 1))
    sizes = np.clip(len(images) - EVALUATION_BATCH * np.arange(chunk), 0, EVALUATION_BATCH).astype(np.int32)
    steps = -(-len(images) // EVALUATION_BATCH)
    return [tf.constant(v) for v in (x, y.reshape(chunk, EVALUATION_BATCH), sizes, np.int32(steps))]
