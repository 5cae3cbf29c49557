"""Trains many small CNNs side by side with programs that XLA compiles once per architecture and batch size.

A program trains a chunk of steps: it is given images already shuffled, so that one program serves data sets of any
size. On a CPU it holds one CNN, and threads run the CNNs side by side; on a GPU it holds all of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from threading import Lock
from typing import Any

import numpy as np
import tensorflow as tf

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.images import image_shape
from cnnsim_tf.models import build
from cnnsim_tf.process.limits import cores
from cnnsim_tf.training.architecture import Network, network
from cnnsim_tf.training.batch_innermost import SHIFTED_WEIGHTS
from cnnsim_tf.training.jobs import finish
from cnnsim_tf.training.programs import (
    EVALUATION_BATCH,
    chunk_steps,
    compile_now,
    evaluation_program,
    training_program,
)

ALIGNED = 64  # bytes


def unsupported(cnn: str, side: int, classes: int, channels: int = 1) -> str | None:
    """Return why the fleet engine cannot train an architecture, or None if it can."""
    found = _network(cnn, side, classes, channels)
    return found if isinstance(found, str) else None


def why_not_fleet(cnn: str, side: int, classes: int, channels: int = 1) -> str | None:
    """Return why the fleet engine cannot train an architecture or should not, in one sentence, or None.

    The rule: it pays as long as every convolution is a sum of shifted slices, that is, has at most SHIFTED_WEIGHTS
    weights. Images per CPU second of both engines, for networks of two convolutions and two dense layers: 2 and 4
    filters of 3x3, 285,000 against 57,000 of Keras's own layers; 4 and 8, 106,000 against 49,000; 8 and 8, 53,000
    against 46,000; 8 and 16, 25,600 against 40,000; 6 and 16 of 5x5, 4,200 against 25,000.
    """
    found = _network(cnn, side, classes, channels)
    if isinstance(found, str):
        return found
    # A kernel's shape has four dimensions: height, width, channels, filters.
    largest = max((math.prod(shape) for shape in found.shapes if len(shape) == 4), default=0)
    if largest > SHIFTED_WEIGHTS:
        return f"a convolution has {largest:,} weights, and beyond {SHIFTED_WEIGHTS} Keras's own layers are faster"
    return None


@lru_cache
def _network(cnn: str, side: int, classes: int, channels: int) -> Network | str:
    return network(build(cnn, side, classes, channels))


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
        channels: int = 1,
    ) -> None:
        found = _network(cnn, side, classes, channels)
        if isinstance(found, str):
            raise ValueError(f"the fleet engine cannot train the CNN {cnn!r}: {found}")
        self.network, self.shape, self.count = found, image_shape(side, channels), count
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.threads = threads or cores()
        self.on_gpu = bool(tf.config.get_visible_devices("GPU"))
        self._chunk = chunk_steps(self.shape, batch_size)
        size = count if self.on_gpu else 1
        self._groups = [slice(m, m + size) for m in range(0, count, size)]
        self._state: list[list[Any]] = []  # per group: weights, first and second moments, each [models, P]
        self._steps = 0

    def compile(self) -> None:
        """Compile the programs of training and evaluation, which is otherwise done when they are first called."""
        models = self._groups[0].stop
        train = training_program(self.network, self.shape, self.batch_size, models)
        evaluate = evaluation_program(self.network, self.shape, models)  # both are there before one takes a second
        compile_now(train)
        compile_now(evaluate)

    def start(self, weights: Sequence[np.ndarray], seeds: Sequence[int] = ()) -> None:
        """Give every model its weights, [M, ...] each in Keras's order, and forget all optimizer state.

        Seeds are for random layers, of which this engine has none.
        """
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
        """Return an epoch's order [M, N] as `run` takes it; one that is broadcast to all models stays so."""
        rows = order[:1] if order.strides[0] == 0 else order
        return np.broadcast_to(np.asarray(rows, np.int32), order.shape)

    def run(self, data: tuple[list, list], order: np.ndarray, first: int, last: int) -> list[np.ndarray]:
        """Train batches `first` to `last` (exclusive) of an epoch.

        Returns:
            Sums over their images: of losses [M], of correct predictions [M], of images [M].
        """
        sums, groups, n = np.zeros((2, self.count)), self._groups, order.shape[1]
        if len(data[0]) == 1 and order.strides[0] == 0:
            chunks = [_Chunks(partial(self._gathered, data, order, groups[0]), len(groups))] * len(groups)
        else:
            chunks = [_Chunks(partial(self._gathered, data, order, group)) for group in groups]
        finish([self._train(at, chunks[at], n, first, last, sums) for at in range(len(groups))], self.threads)
        self._steps += last - first
        passed = min(last * self.batch_size, n) - first * self.batch_size
        return [*sums.astype(np.float32), np.full(self.count, passed, np.float32)]

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean loss [M] and accuracy in percent [M] on images [T, side, side] or [T, side, side, 3]."""
        sums = np.zeros((2, self.count))
        cuts = _cuts(len(images), EVALUATION_BATCH * chunk_steps(self.shape, EVALUATION_BATCH))
        chunks = _Chunks(lambda begin, end: _chunk_to_evaluate(images[begin:end], labels[begin:end]), len(self._groups))
        finish([self._evaluate(at, chunks, cuts, sums) for at in range(len(self._groups))], self.threads)
        return sums[0] / len(images), 100 * sums[1] / len(images)

    def _train(self, at: int, chunks: "_Chunks", n: int, first: int, last: int, sums: np.ndarray) -> Iterator[None]:
        """Train one group of models, a chunk of steps at a time, and add to its sums."""
        group, state = self._groups[at], self._state[at]
        program = training_program(self.network, self.shape, self.batch_size, group.stop - group.start)
        for begin, end in _cuts(last, self._chunk, first):
            images, labels = chunks.taken(begin, end)
            sizes = np.clip(n - self.batch_size * np.arange(begin, begin + self._chunk), 1, self.batch_size)
            before = self._steps + begin - first
            loss, correct, *state = program(
                images, labels, sizes.astype(np.int32), end - begin, before, self.learning_rate, *state
            )
            del images, labels  # of which the next chunk gets the memory
            self._state[at] = state
            sums[0, group] += loss.numpy()
            sums[1, group] += correct.numpy()
            yield

    def _gathered(
        self, data: tuple[list, list], order: np.ndarray, group: slice, begin: int, end: int
    ) -> tuple[Any, Any]:
        """Return batches `begin` to `end` (exclusive) of each model's data set, or of the shared one, for the program.

        What comes after them in a chunk is not looked at. The transposition is not left to XLA on CPUs, where numpy
        takes two thirds of its time.
        """
        index = np.zeros((group.stop - group.start, self._chunk * self.batch_size), np.int32)
        taken = order[group, begin * self.batch_size : end * self.batch_size]
        index[:, : taken.shape[1]] = taken
        models, batches = len(index), index.reshape(len(index), self._chunk, self.batch_size)
        images, labels = (sets[group] if len(sets) > 1 else sets * models for sets in data)
        shape = (models, self._chunk, *self.shape, self.batch_size)
        if self.on_gpu:
            x = tf.stack([tf.gather(x, i) for x, i in zip(images, batches, strict=True)])
            y = tf.stack([tf.gather(y, i) for y, i in zip(labels, batches, strict=True)])
            return tf.reshape(tf.transpose(x, (0, 1, 3, 2)), shape), y
        rows = _aligned(shape)
        for of_model, source, each in zip(rows, images, batches, strict=True):
            for step, batch in zip(of_model, each[: end - begin], strict=False):
                step.reshape(-1, self.batch_size)[:] = to_unit(source[batch]).T
        return _shared(rows), tf.constant(np.stack([y[i] for y, i in zip(labels, batches, strict=True)]))

    def _evaluate(
        self, at: int, chunks: "_Chunks", cuts: Sequence[tuple[int, int]], sums: np.ndarray
    ) -> Iterator[None]:
        """Evaluate one group of models, a chunk of images at a time, and add to its sums."""
        group = self._groups[at]
        program = evaluation_program(self.network, self.shape, group.stop - group.start)
        for cut in cuts:
            loss, correct = program(*chunks.taken(*cut), self._state[at][0])
            sums[0, group] += loss.numpy()
            sums[1, group] += correct.numpy()
            yield


class _Chunks:
    """Chunks of data for so many jobs, each made when the first of them takes it, and let go of with the last."""

    def __init__(self, make: Callable[[int, int], Any], jobs: int = 1) -> None:
        self._make, self._jobs, self._lock = make, jobs, Lock()
        self._there: dict[tuple[int, int], tuple[Any, int]] = {}  # and how many jobs have yet to take it

    def taken(self, begin: int, end: int) -> Any:
        """Return the chunk from `begin` to `end` (exclusive)."""
        with self._lock:
            if (begin, end) not in self._there:
                self._there[begin, end] = self._make(begin, end), self._jobs
            chunk, jobs = self._there.pop((begin, end))
            if jobs > 1:
                self._there[begin, end] = chunk, jobs - 1
            return chunk


def _cuts(end: int, size: int, begin: int = 0) -> list[tuple[int, int]]:
    return [(at, min(at + size, end)) for at in range(begin, end, size)]


def _chunk_to_evaluate(images: np.ndarray, labels: np.ndarray) -> list[Any]:
    """Return up to chunk_steps batches as the evaluation program takes them: batch innermost, padded with zeros."""
    shape, steps = images.shape[1:], -(-len(images) // EVALUATION_BATCH)
    chunk = chunk_steps(shape, EVALUATION_BATCH)
    x, y = _aligned((chunk, math.prod(shape), EVALUATION_BATCH)), np.zeros(chunk * EVALUATION_BATCH, np.int32)
    y[: len(labels)] = labels
    for step, (begin, end) in zip(x, _cuts(len(images), EVALUATION_BATCH), strict=False):
        step[:, : end - begin] = images[begin:end].reshape(end - begin, -1).T
        step[:, end - begin :] = 0
    sizes = np.clip(len(images) - EVALUATION_BATCH * np.arange(chunk), 0, EVALUATION_BATCH).astype(np.int32)
    others = (y.reshape(chunk, EVALUATION_BATCH), sizes, np.int32(steps))
    return [_shared(x.reshape(chunk, *shape, EVALUATION_BATCH)), *map(tf.constant, others)]


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of float32, not filled, that begins where XLA's vector instructions want it to."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + ALIGNED, np.uint8)
    first = -memory.ctypes.data % ALIGNED
    return memory[first : first + size].view(np.float32).reshape(shape)


def _shared(array: np.ndarray) -> Any:
    """Return a tensor in an array's memory, or on a GPU a copy: to copy a chunk takes a tenth of what training does."""
    if tf.config.get_visible_devices("GPU"):
        return tf.constant(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
