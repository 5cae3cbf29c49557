"""This project's engines as contestants."""

from typing import Any

import numpy as np

from benchmarks.inputs import BATCH, CLASSES, RATE, SIDE, inputs
from benchmarks.worker import Task
from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.run.device import configure
from cnnsim_tf.training.engine import RUN_STEPS
from cnnsim_tf.training.fleet_engine import FleetEngine
from cnnsim_tf.training.keras_engine import KerasEngine

SETTINGS = ("reference", SIDE, CLASSES)


def fleet(n: int, models: int, threads: int) -> dict[str, Task]:
    """Return the fleet engine's training and evaluation."""
    configure("cpu")
    return _tasks(FleetEngine(*SETTINGS, models, BATCH, RATE, threads=threads), n, models)


def keras_layers(n: int, models: int) -> dict[str, Task]:
    """Return the training and evaluation of the engine of Keras's own layers."""
    configure("cpu")
    return _tasks(KerasEngine(*SETTINGS, models, BATCH, RATE), n, models)


def _tasks(engine: Any, n: int, models: int) -> dict[str, Task]:
    given, mnist = inputs(n, models), load("mnist")
    test_images, test_labels = to_unit(mnist.x_test[:n]), mnist.y_test[:n]
    engine.start(given.weights)
    data = engine.put(given.images, given.labels)
    steps, epoch = -(-n // BATCH), -1

    def train(epochs: int) -> list[float]:
        """Train as a study does, in runs of as many batches, and return the mean losses of model 0."""
        nonlocal epoch
        losses = []
        for epoch in range(epoch + 1, epoch + 1 + epochs):  # noqa: B020  it goes on where it was
            order, sums = engine.put_order(given.order(epoch)), np.zeros((3, models))
            for first in range(0, steps, RUN_STEPS):
                sums += np.stack(engine.run(data, order, first, min(first + RUN_STEPS, steps)))
            losses.append(float(sums[0, 0] / sums[2, 0]))
        return losses

    def evaluate(times: int) -> float:
        return [float(engine.evaluate(test_images, test_labels)[0][0]) for _ in range(times)][-1]

    return {"train": Task(models * n, train), "evaluate": Task(models * len(test_labels), evaluate)}
