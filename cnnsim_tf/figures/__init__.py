"""Figures for papers and for MLflow: arrays and names in, a matplotlib Figure out.

Only matplotlib's object-oriented interface is used (no pyplot, no global settings), so figures can be drawn in any
thread and are freed with their last reference. All are at most 7.2 inches wide, with text of 8 points or more.
NaN anywhere in the data is drawn as nothing.
"""

from cnnsim_tf.figures.collapse import collapse_diagnosis, gradient_norms
from cnnsim_tf.figures.colours import variant_colour
from cnnsim_tf.figures.filters import FilterPair, extreme_pairs, filter_grid
from cnnsim_tf.figures.rows import accuracy_by_variant, difference_forest
from cnnsim_tf.figures.similarity import layer_similarity, pair_counts, score_heatmap, scores_against_null
from cnnsim_tf.figures.subsets import donor_accuracy, noise_examples
from cnnsim_tf.figures.sweeps import sweep
from cnnsim_tf.figures.variants import kept_similarity, learning_curves, noise_test_accuracy, steps_to_reach
