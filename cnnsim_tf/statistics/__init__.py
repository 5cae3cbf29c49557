"""Summaries, paired comparisons and tests over repeats: arrays in, numbers out.

Nothing here depends on what ran before: what is resampled is resampled from a fixed seed, so that equal data give
equal intervals and p values wherever they are computed. NaN is what is not defined.
Modules of scipy are imported when something is first taken from them, since that takes half a second.
"""

from cnnsim_tf.statistics.compare import COLUMNS, bca_interval, compare, judged, sign_flip_test
from cnnsim_tf.statistics.learning import ReachCurve, TimesToReach, area_under_curve, reach_curve, steps_to_reach
from cnnsim_tf.statistics.multiple import ALPHA, fewest_repeats, holm, verdict
from cnnsim_tf.statistics.pairs import PairSelection, pair_selection
from cnnsim_tf.statistics.summaries import (
    COLLAPSED_BELOW,
    collapses,
    describe,
    mean_interval,
    median_repeat,
    proportion,
)
