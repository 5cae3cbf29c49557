"""The programs of the fleet engine, which XLA compiles: some steps of training, and of evaluation, of many CNNs."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import tensorflow as tf

from cnnsim_tf.training.architecture import Network
from cnnsim_tf.training.batch_innermost import logits

# Bytes of the images that a program is given per call: a call costs about a millisecond, as much as a step, and data
# of many more steps would leave the cache between being gathered and being trained on.
CHUNK_BYTES = 6_500_000
EVALUATION_BATCH = 64  # images; what one of its convolutions works on fits into a core's cache

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def chunk_steps(shape: tuple[int, ...], batch_size: int) -> int:
    """Return how many batches of float32 images of a shape a call of a program takes: 32 of 64 MNIST images."""
    return max(1, CHUNK_BYTES // (4 * math.prod(shape) * batch_size))


@lru_cache(maxsize=8)
def training_program(net: Network, shape: tuple[int, ...], batch_size: int, models: int) -> Callable[..., Any]:
    """Return the compiled function that trains up to chunk_steps steps and returns sums of loss and correct, and state.

    Images are of the shape (side, side) or (side, side, channels). Adam is that of Keras 2.15 (Kingma and Ba, 2015, in
    the form with ε outside of the bias correction).
    """

    def train(
        images: Any, labels: Any, sizes: Any, steps: Any, before: Any, learning_rate: Any, *state: Any
    ) -> tuple[Any, ...]:
        def step(s: Any, losses: Any, correct: Any, w: Any, m: Any, v: Any) -> tuple[Any, ...]:
            # gather, since TensorFlow translates images[:, s] into a copy of all images padded to eight times the size
            outputs, pullback = logits(net, w, tf.gather(images, s, axis=1), _keep(before >= 0))
            loss, right, g = _cross_entropy(outputs, tf.gather(labels, s, axis=1), tf.gather(sizes, s))
            g = pullback(g)
            t = tf.cast(before + s + 1, tf.float32)
            alpha = learning_rate * tf.sqrt(1 - tf.pow(BETA_2, t)) / (1 - tf.pow(BETA_1, t))
            m = m + (g - m) * (1 - BETA_1)
            v = v + (tf.square(g) - v) * (1 - BETA_2)
            return s + 1, losses + loss, correct + right, w - m * alpha / (tf.sqrt(v) + EPSILON), m, v

        begin = (tf.constant(0), tf.zeros(models), tf.zeros(models), *state)
        return tf.while_loop(lambda s, *_: s < steps, step, begin)[1:]

    chunk, flat = chunk_steps(shape, batch_size), _spec((models, sum(map(math.prod, net.shapes))))
    data = [
        _spec((models, chunk, *shape, batch_size)),
        _spec((models, chunk, batch_size), tf.int32),
        _spec((chunk,), tf.int32),
    ]
    scalars = [_spec((), tf.int32), _spec((), tf.int32), _spec(())]
    return tf.function(train, [*data, *scalars, flat, flat, flat], autograph=False, jit_compile=True)


@lru_cache(maxsize=8)
def evaluation_program(net: Network, shape: tuple[int, ...], models: int) -> Callable[..., Any]:
    """Return the compiled function from up to chunk_steps batches to sums of loss and of correct predictions."""

    def evaluate(images: Any, labels: Any, sizes: Any, steps: Any, w: Any) -> tuple[Any, ...]:
        def step(s: Any, losses: Any, correct: Any) -> tuple[Any, ...]:
            outputs, _ = logits(net, w, tf.gather(images, s)[None], _keep(steps > 0))
            loss, right, _ = _cross_entropy(outputs, tf.gather(labels, s)[None], tf.gather(sizes, s))
            return s + 1, losses + loss, correct + right

        begin = (tf.constant(0), tf.zeros(models), tf.zeros(models))
        return tf.while_loop(lambda s, *_: s < steps, step, begin)[1:]

    chunk = chunk_steps(shape, EVALUATION_BATCH)
    images = _spec((chunk, *shape, EVALUATION_BATCH))
    integers = [_spec((chunk, EVALUATION_BATCH), tf.int32), _spec((chunk,), tf.int32), _spec((), tf.int32)]
    weights = _spec((models, sum(map(math.prod, net.shapes))))
    return tf.function(evaluate, [images, *integers, weights], autograph=False, jit_compile=True)


def compile_now(program: Callable[..., Any]) -> None:
    """Have a program compiled, which its first call would wait for, by a call for no step at all."""
    program(*(tf.zeros(spec.shape, spec.dtype) for spec in program.input_signature))  # type: ignore[attr-defined]


def _spec(shape: tuple[int, ...], dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


def _keep(always: Any) -> Callable[[Any], Any]:
    """Return the function that makes XLA compute a tensor once and hold it in memory, if `always` is a true scalar.

    On CPUs XLA fuses a tensor's computation into each of its users, convolutions into every slice of them: training
    then takes three times as long. What comes out of a condition it must hold in memory; optimization_barrier has
    no effect, since XLA removes it before it fuses. On a GPU a condition would wait for the host.
    """
    if tf.config.get_visible_devices("GPU"):
        return lambda x: x
    return lambda x: tf.cond(always, lambda: x, lambda: -x)


def _cross_entropy(outputs: Any, labels: Any, size: Any) -> tuple[Any, Any, Any]:
    """Return sums of loss [M] and of correct predictions [M], and the gradient of the mean loss by the logits.

    Args:
        outputs: logits [M, classes, B].
        labels: [M or 1, B] int32.
        size: the first so many of the B images count.
    """
    classes, batch = outputs.shape[1:]
    counted = tf.cast(tf.range(batch) < size, tf.float32)
    target = tf.cast(labels[:, None] == tf.range(classes)[None, :, None], tf.float32)
    shifted = outputs - tf.reduce_max(outputs, 1, keepdims=True)
    exponentials = tf.exp(shifted)
    total = tf.reduce_sum(exponentials, 1, keepdims=True)
    loss = tf.math.log(total[:, 0]) - tf.reduce_sum(target * shifted, 1)
    correct = tf.cast(tf.argmax(outputs, 1, tf.int32) == labels, tf.float32)
    gradient = (exponentials / total - target) * (counted / tf.cast(size, tf.float32))
    return tf.reduce_sum(loss * counted, 1), tf.reduce_sum(correct * counted, 1), gradient
