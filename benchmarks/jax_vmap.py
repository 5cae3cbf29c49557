"""A JAX program as a contestant: vmap over the models, scan over an epoch's batches, one jit around both.

Two choices make it three times as fast here as the plainest program: XLA's older runtime for CPUs (contestants.py sets
the flag) and pooling as the maximum of a reshaped array, whose gradient XLA need not scatter.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.inputs import BATCH, RATE, inputs
from benchmarks.worker import Task

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def program(n: int, models: int) -> dict[str, Task]:
    """Return the training of M CNNs side by side."""
    given = inputs(n, models)
    images = jnp.stack([x[..., None] for x in given.images])
    labels = jnp.stack(given.labels)
    weights = [jnp.asarray(w) for w in given.weights]
    moments = ([jnp.zeros_like(w) for w in weights] for _ in range(2))
    state: Any = (weights, *moments, jnp.zeros(models))
    train_all = jax.jit(jax.vmap(_epoch), donate_argnums=0)
    epoch = -1

    def train(epochs: int) -> list[float]:
        nonlocal state, epoch
        losses = []
        for epoch in range(epoch + 1, epoch + 1 + epochs):  # noqa: B020  it goes on where it was
            state, loss = train_all(state, images, labels, given.order(epoch))
            losses.append(float(loss[0]))
        return losses

    return {"train": Task(models * n, train)}


def _epoch(state: Any, images: Any, labels: Any, order: Any) -> tuple[Any, Any]:
    """Train one CNN for an epoch; return its state and its mean loss."""

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        weights, m, v, t = state
        loss, g = jax.value_and_grad(_loss)(weights, images[batch], labels[batch])
        t = t + 1
        m = jax.tree.map(lambda m, g: m + (1 - BETA_1) * (g - m), m, g)
        v = jax.tree.map(lambda v, g: v + (1 - BETA_2) * (g * g - v), v, g)
        rate = RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON), weights, m, v)
        return (weights, m, v, t), loss * len(batch)

    n = len(order)
    whole = n // BATCH * BATCH
    state, losses = lax.scan(step, state, order[:whole].reshape(-1, BATCH))
    total = losses.sum()
    if whole < n:
        state, loss = step(state, order[whole:])
        total += loss
    return state, total / n


def _loss(weights: list, images: Any, labels: Any) -> Any:
    """Return the reference CNN's mean cross-entropy on images [B, 28, 28, 1]."""
    kernel_1, bias_1, kernel_2, bias_2, dense_1, bias_3, dense_2, bias_4 = weights
    x = _pool(jax.nn.relu(_convolved(images, kernel_1) + bias_1))
    x = _pool(jax.nn.relu(_convolved(x, kernel_2) + bias_2))
    x = jax.nn.relu(x.reshape(len(x), -1) @ dense_1 + bias_3)
    logs = jax.nn.log_softmax(x @ dense_2 + bias_4)
    return -jnp.take_along_axis(logs, labels[:, None], 1).mean()


def _convolved(x: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _pool(x: Any) -> Any:
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
