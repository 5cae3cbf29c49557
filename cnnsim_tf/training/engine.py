"""What an engine is given and what it returns, whichever engine it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.images import channels_of
from cnnsim_tf.training.fleet_engine import FleetEngine, unsupported, why_not_fleet
from cnnsim_tf.training.keras_engine import KerasEngine

EngineName = Literal["auto", "fleet", "keras"]

FIRST_POINTS = (25, 50)  # batches after which test accuracy is taken, besides about ten times in the first epoch
MIN_POINTS_APART = 100  # batches, after the first so many

RUN_STEPS = 50  # batches in one call of an engine at the most: for progress, and for Ctrl-C to be noticed

# Called with the number of images that have passed since the last call.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Trained:
    """Results of training M models for E epochs; accuracies in percent, losses are mean cross-entropies (nats)."""

    weights: list[np.ndarray]  # in Keras's weight order, each [M, ...] float32
    epoch_loss: np.ndarray  # [M, E] float64, mean over the epoch's images while training, as Keras's fit reports it
    epoch_accuracy: np.ndarray  # [M, E] float64, the same for accuracy
    points: np.ndarray  # [P] int64, number of batches after which the next two were taken
    train_loss: np.ndarray  # [M, P] float64, mean over the images since the previous point
    test_loss: np.ndarray  # [M, P] float64
    test_accuracy: np.ndarray  # [M, P] float64


def curve_points(images: int, batch_size: int, epochs: int) -> np.ndarray:
    """Return after how many batches test accuracy is taken, so that it can be told when an accuracy was reached.

    25, 50, then every 100 batches of the first epoch (in longer ones every tenth of it, rounded to 50), and its end; of
    the later epochs the quarters, but for those less than 25 batches (beyond the first 100 batches: 100) after the
    point before; and the end.
    """
    steps = -(-images // batch_size)
    every = max(MIN_POINTS_APART, 50 * round(steps / 500))
    points = {*FIRST_POINTS, *range(every, steps - every // 4, every)}
    points = {p for p in points if p < steps} | {steps}
    last, end = steps, steps * epochs
    for quarter in range(5, 4 * epochs + 1):
        at = steps * (quarter // 4) + -(-steps * (quarter % 4) // 4)
        if at == end or at - last >= (MIN_POINTS_APART if at > MIN_POINTS_APART else FIRST_POINTS[0]):
            points.add(at)
            last = at
    return np.array(sorted(points), dtype=np.int64)


def train(
    cnn: str,
    weights: Sequence[np.ndarray],
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    orders: Callable[[int], np.ndarray],
    *,
    classes: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seeds: Sequence[int] = (),
    points: Sequence[int] = (),
    test: tuple[np.ndarray, np.ndarray] | None = None,
    progress: Progress = lambda images: None,
    engine: EngineName = "auto",
    threads: int | None = None,
) -> Trained:
    """Train M CNNs of one architecture side by side with Adam on cross-entropy.

    Args:
        cnn: name of the architecture.
        weights: initial ones in Keras's weight order, each [M, ...] float32.
        images: M arrays [N, side, side] or [N, side, side, 3], or one that all models share: float32 in [-1, 1], or
            uint8 of 0 to 255, a fourth of the memory, which training takes to [-1, 1] (see `to_unit`).
        labels: M arrays [N] int32, or one.
        orders: for an epoch (from 0) the order of the images, [M, N] int32; the last short batch is trained on too.
        classes: number of outputs.
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: of Adam; β = (0.9, 0.999), ε = 1e-8.
        seeds: [M] of 32 bits, of what random layers such as Dropout draw (see random_layers.py); by default 0.
        points: numbers of batches (counted over all epochs) after which the test set is evaluated.
        test: images float32 of the same shape and labels [T] int32; needed with points.
        progress: told of every image pass.
        engine: auto takes the fleet engine where it can train the architecture and is the faster one (see
            why_not_fleet), else that of Keras's own layers.
        threads: that may train, by default as many as there are cores; results do not depend on it.

    Returns:
        Trained. Equal arguments give bit-identical results on the same machine and device.

    Raises:
        ParameterError: the fleet engine is asked for and cannot train the architecture.
        StudyError: training diverged.
    """
    count, n = len(weights[0]), len(labels[0])
    batch_size = min(batch_size, n)  # engines reserve memory for whole batches
    models = _engine(engine, cnn, images[0], classes, count, batch_size, learning_rate, threads)
    models.start(weights, seeds)
    data: tuple[list[Any], list[Any]] = models.put(images, labels)
    steps = -(-n // batch_size)
    ends = [steps * (e + 1) for e in range(epochs)]
    stops = sorted({*map(int, points), *ends, *range(RUN_STEPS, ends[-1], RUN_STEPS)})
    sums = {"epoch": np.zeros((3, count)), "point": np.zeros((3, count))}  # of loss, correct, images
    epoch_curves, point_curves, at = [], [], 0
    for epoch in range(epochs):
        order: Any = models.put_order(orders(epoch))
        for stop in [s for s in stops if steps * epoch < s <= steps * (epoch + 1)]:
            first, last = at - steps * epoch, stop - steps * epoch
            passed = np.stack(models.run(data, order, first, last))
            for total in sums.values():
                total += passed
            at = stop
            progress(int(passed[2].sum()))
            if stop in points:
                loss = sums["point"][0] / sums["point"][2]
                point_curves.append((loss, *models.evaluate(*(test or ([], [])))))
                sums["point"][:] = 0
        epoch_curves.append((sums["epoch"][0] / sums["epoch"][2], 100 * sums["epoch"][1] / sums["epoch"][2]))
        sums["epoch"][:] = 0
    final = models.weights()
    if not all(np.isfinite(w).all() for w in final):
        raise StudyError(
            f"training diverged: weights are no longer finite with a learning rate of {learning_rate:g}, so use a "
            "smaller learning_rate"
        )
    epoch_loss, epoch_accuracy = np.array(epoch_curves).transpose(1, 2, 0)
    curves = np.array(point_curves).reshape(-1, 3, count).transpose(1, 2, 0)
    taken = np.array(sorted(points), np.int64)
    return Trained(final, epoch_loss, epoch_accuracy, taken, *curves)


def evaluate(
    cnn: str,
    weights: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    engine: EngineName = "auto",
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate M CNNs of one architecture on one data set.

    Args:
        cnn: name of the architecture.
        weights: in Keras's weight order, each [M, ...] float32.
        images: [T, side, side] or [T, side, side, 3] float32 in [-1, 1].
        labels: [T] int32.
        classes: number of outputs.
        engine: as for `train`.
        threads: as for `train`.

    Returns:
        Mean cross-entropy [M] and accuracy in percent [M], float64.
    """
    models = _engine(engine, cnn, images, classes, len(weights[0]), 1, 1.0, threads)
    models.start(weights)
    return models.evaluate(images, labels)


def compile_ahead(
    cnn: str,
    side: int,
    classes: int,
    images: int,
    batch_size: int,
    engine: EngineName = "auto",
    channels: int = 1,
) -> None:
    """Compile what CNNs will train with on a CPU: XLA takes a second and a half for it, and not Python's lock.

    The arguments are those of `train`, and what is compiled does not depend on who compiles it.
    """
    if _is_fleet(engine, cnn, side, classes, channels):
        models = FleetEngine(cnn, side, classes, 1, min(batch_size, images), 1.0, channels=channels)
        if not models.on_gpu:  # where a program has as many models as are trained
            models.compile()


def check_engine(choice: str, cnn: str, side: int, classes: int, channels: int = 1) -> None:
    """Check that an engine can train an architecture.

    Raises:
        ParameterError: the fleet engine is asked for and cannot.
    """
    if choice == "fleet" and (reason := unsupported(cnn, side, classes, channels)):
        raise ParameterError(f"engine is fleet, which cannot train the CNN {cnn}: {reason}; use engine=auto or keras")


def _engine(
    choice: EngineName,
    cnn: str,
    images: np.ndarray,
    classes: int,
    count: int,
    batch_size: int,
    learning_rate: float,
    threads: int | None,
) -> FleetEngine | KerasEngine:
    """Return an engine for such images."""
    side, channels = images.shape[1], channels_of(images)
    check_engine(choice, cnn, side, classes, channels)
    kind = FleetEngine if _is_fleet(choice, cnn, side, classes, channels) else KerasEngine
    return kind(cnn, side, classes, count, batch_size, learning_rate, threads, channels)


def _is_fleet(choice: EngineName, cnn: str, side: int, classes: int, channels: int) -> bool:
    return choice == "fleet" or (choice == "auto" and not why_not_fleet(cnn, side, classes, channels))
