"""Results of all repeats of the warm start side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cnnsim_tf.statistics import TimesToReach, area_under_curve, steps_to_reach
from cnnsim_tf.steps.kept import column
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart.repeat import WarmstartResult

THRESHOLDS = (80.0, 90.0, 92.0)  # percent


@dataclass(frozen=True)
class Stacked:
    """Results of all repeats side by side: V variants, R repeats, P points; accuracies in percent."""

    names: tuple[str, ...]  # of the variants
    accuracy: np.ndarray  # [V, R, P] on clean test data
    start: np.ndarray  # [V, R] before training
    noisy: np.ndarray  # [V, R, D] on every noise's test set, at the end
    loss: np.ndarray  # [V, R] train loss of the last epoch
    points: np.ndarray  # [P] batches

    @property
    def final(self) -> np.ndarray:
        """Accuracies at the end, [V, R]."""
        return self.accuracy[:, :, -1]

    @property
    def repeats(self) -> int:
        """How many there are."""
        return self.accuracy.shape[1]

    @property
    def over_training(self) -> np.ndarray:
        """Mean accuracies along training, [V, R]."""
        curves = zip(self.accuracy, self.start, strict=True)
        return np.stack([area_under_curve(self.points, a, s) for a, s in curves])

    @cached_property
    def times(self) -> list[list[TimesToReach]]:
        """When repeats reached each of THRESHOLDS, by variant and threshold."""
        curves = zip(self.accuracy, self.start, strict=True)
        return [[steps_to_reach(self.points, a, t, s) for t in THRESHOLDS] for a, s in curves]


def stacked(context: Context, results: Sequence[WarmstartResult]) -> Stacked:
    """Return results of all repeats side by side."""
    return Stacked(
        names=context.study.variants,
        accuracy=column(results, "test_accuracy").swapaxes(0, 1),
        start=column(results, "start_accuracy").T,
        noisy=column(results, "noise_accuracy").swapaxes(0, 1),
        loss=column(results, "epoch_loss")[:, :, -1].T,
        points=results[0].points,
    )
