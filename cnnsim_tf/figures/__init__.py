"""Figures for papers and for MLflow: arrays and names in, a matplotlib Figure out.

Only matplotlib's object-oriented interface is used (no pyplot, no global settings), so figures can be drawn in any
thread and are freed with their last reference. All are at most 7.2 inches wide, with text of 8 points or more.
NaN anywhere in the data is drawn as nothing.
"""

from cnnsim_tf.figures.colours import variant_colour
from cnnsim_tf.figures.drawing import as_png
from cnnsim_tf.figures.filters import FilterPair, extreme_pairs, filter_grid
from cnnsim_tf.figures.similarity import pair_counts, score_heatmap
from cnnsim_tf.figures.subsets import donor_accuracy, noise_examples
from cnnsim_tf.figures.variants import accuracy_by_variant, kept_similarity, learning_curves

__all__ = [
    "FilterPair",
    "accuracy_by_variant",
    "as_png",
    "donor_accuracy",
    "extreme_pairs",
    "filter_grid",
    "kept_similarity",
    "learning_curves",
    "noise_examples",
    "pair_counts",
    "score_heatmap",
    "variant_colour",
]
