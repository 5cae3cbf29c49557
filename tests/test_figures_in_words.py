"""The text alternatives of the warm start's figures give the figures' numbers."""

import numpy as np
import pandas as pd

from cnnsim_tf.steps.warmstart.stacked import Stacked
from cnnsim_tf.steps.warmstart.words import curves_in_words, reach_caption, reach_in_words

POINTS = np.array([25, 50, 100, 200, 400])


def speed(reached: dict[tuple[str, float], int]) -> pd.DataFrame:
    """Return what of a table of speed is put in words, of three repeats; whoever got there took 50 batches."""
    rows = [
        {"variant": name, "threshold %": at, "reached": n, "repeats": 3, "median batches": 50.0 if n else np.nan}
        for (name, at), n in reached.items()
    ]
    return pd.DataFrame(rows)


def curves(names: list[str], accuracy: np.ndarray, points: np.ndarray) -> Stacked:
    return Stacked(tuple(names), accuracy, accuracy[..., 0], accuracy[..., :0], accuracy[..., 0], points)


def test_curves_in_words_are_medians_at_the_start_the_middle_of_the_log_scale_and_the_end() -> None:
    accuracy = np.stack([np.outer([1, 2, 9], np.arange(1, 6)), np.full((3, 5), 90.0)])
    assert curves_in_words(curves(["cosine", "random_init"], accuracy, POINTS)) == (
        "Median accuracy in percent after 25, 100 and 400 batches: cosine 2.00, 6.00, 10.00; random_init 90.00, 90.00, "
        "90.00."
    )


def test_curves_in_words_of_a_single_point_or_of_many_variants_have_the_end_only() -> None:
    assert curves_in_words(curves(["cosine"], np.full((1, 2, 1), 90.0), np.array([1]))) == (
        "Median accuracy in percent after 1 batch: cosine 90.00."
    )
    many = curves_in_words(curves([f"v{i}" for i in range(13)], np.full((13, 2, 5), 90.0), POINTS))
    assert many.startswith("Median accuracy in percent after 400 batches: v0 90.00; v1 90.00;")


def test_reach_in_words_has_every_accuracy_and_says_which_nobody_reached() -> None:
    counts = {("cosine", 80.0): 3, ("cosine", 90.0): 1, ("cosine", 92.0): 0}
    assert reach_in_words(speed(counts)) == (
        "Median batches to 80 % (how many repeats got there): cosine 50 (3 of 3). "
        "Median batches to 90 % (how many repeats got there): cosine 50 (1 of 3). "
        "No repeat of any variant reached 92 %."
    )


def test_the_caption_of_a_figure_of_nothing_asks_nobody_to_look_at_curves() -> None:
    assert "nothing to draw" in reach_caption(speed({("cosine", 80.0): 0, ("cosine", 90.0): 0}))
    assert "curve" in reach_caption(speed({("cosine", 80.0): 1, ("cosine", 90.0): 0}))
