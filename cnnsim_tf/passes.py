"""Image passes that a warm start takes to reach an accuracy, the donors' passes counted and not counted."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from cnnsim_tf.study import BASELINE

NAN = float("nan")

Progress = Callable[[int], None]  # called with the number of images that have passed since the last call


@dataclass(frozen=True)
class Passes:
    """Image passes (one image through one training step, forwards and backwards) until an accuracy is reached."""

    target: float  # of the variant's own training; NaN where the accuracy was not reached
    donors: int  # of training the donors that its initial weights are made of

    @property
    def total(self) -> float:
        """Passes with the donors' counted."""
        return self.target + self.donors


@dataclass(frozen=True)
class BreakEven:
    """When donors pay: after how many variants that start from the same donors."""

    saved: float  # passes that each variant saves against the baseline; negative: it needs more
    variants: float  # that must share the donors until their passes are paid back; NaN where never or unknown
    word: str  # the same for a reader


def passes_to_reach(batches: float, batch_size: int, images: int, donor_passes: int, donors: int) -> Passes:
    """Return the image passes of a variant until an accuracy is reached.

    Args:
        batches: training steps until then, at least 0: a mean or median over repeats that took the repeats which never
            reach it as right-censored (Kaplan & Meier, 1958); NaN where there is none.
        batch_size: images per full training step; the last step of an epoch has what is left.
        images: that the variant is trained on, per epoch.
        donor_passes: training passes of one donor: its images times its epochs.
        donors: how many donors its initial weights need (a scheme's `donors`).
    """
    epochs, rest = divmod(batches, math.ceil(images / batch_size))
    return Passes(epochs * images + min(rest * batch_size, images), donor_passes * donors)


def break_even(variant: Passes, baseline: Passes) -> BreakEven:
    """Return how many variants must share the same donors until the donors' passes are paid back.

    With n variants the donors cost their passes once and save n times what a variant saves against the baseline.
    """
    saved = baseline.target - variant.target
    if math.isnan(saved):
        whose = "its" if math.isnan(variant.target) else f"{BASELINE}'s"
        return BreakEven(NAN, NAN, f"unknown: fewer than half of {whose} repeats got there")
    if not variant.donors:
        return BreakEven(saved, 0.0, "nothing to pay back")
    if saved <= 0:
        return BreakEven(saved, NAN, "never")
    count = math.ceil(variant.donors / saved)
    return BreakEven(saved, float(count), f"after {count:,} variant{'s' if count > 1 else ''}")
