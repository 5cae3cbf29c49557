"""Step 3: how alike the donors' filters are, and which are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnsim_tf.alignment import align_network, match_filters
from cnnsim_tf.filters import to_filters
from cnnsim_tf.layer_measures import pair_layer_scores
from cnnsim_tf.measures import donor_pairs, get_measure, pair_scores
from cnnsim_tf.networks import layer_activations
from cnnsim_tf.report.formats import file_name, markdown, text_table
from cnnsim_tf.schemes import Choice
from cnnsim_tf.seeds import rng
from cnnsim_tf.selection import select_donors, select_pairs
from cnnsim_tf.steps.similarity.tables import (
    ALL,
    extreme_pairs,
    layers_table,
    pair_tables,
    parts_of,
    per_filter_table,
    pictures_of,
)
from cnnsim_tf.steps.step import LAYER_IMAGES, Context, Step, Summary
from cnnsim_tf.steps.subset_training import SubsetTrainingResult, initial_donors
from cnnsim_tf.study import StepName
from cnnsim_tf.training import Progress


@dataclass(frozen=True)
class SimilarityResult:
    """One repeat: M measures, F filters, 15 pairs of six donors, N layer measures, L layers.

    "Fresh" are the donors before their training: the null that scores are to be read against.
    """

    scores: np.ndarray  # [M, F, pairs] float32
    partners: np.ndarray  # [M, F, pairs] int64, which filter of the second donor was compared with the first one's
    pairs: np.ndarray  # [M, F] int64, the most alike pair, its position in the order of pairs
    least_pairs: np.ndarray  # [M, F] int64, the least alike pair
    sides: np.ndarray  # [F] int64, which donor of a chosen pair was drawn, 0 or 1: the same for all measures
    donors: np.ndarray  # [M, F] int64, the donor drawn of the most alike pair, from 0
    fresh_scores: np.ndarray  # [M, F, pairs] float32
    layer_scores: np.ndarray  # [N, L, pairs] float32, NaN where a measure is not defined
    fresh_layer_scores: np.ndarray  # [N, L, pairs] float32
    layer_reasons: np.ndarray  # [2, N, L, pairs] str, why a layer score (0) or a fresh one (1) is NaN
    aligned: list[np.ndarray] = field(default_factory=list)  # with align=network: the donors' weights, each [D, ...]


def compute(context: Context, repeat: int, inputs: dict[StepName, Any], progress: Progress) -> SimilarityResult:
    """Score every filter over every pair of donors and choose; score layers; do the same for the untrained donors."""
    study = context.study
    trained = inputs["subset_training"].weights
    fresh = initial_donors(context, repeat)
    aligned = _aligned(context, repeat, trained, "donors")
    scores, partners = _filter_scores(context, aligned)
    fresh_scores, _ = _filter_scores(context, _aligned(context, repeat, fresh, "fresh donors"))
    larger = [get_measure(name).larger_is_more_alike for name in study.measures]
    pairs, least = (
        np.stack([select_pairs(s, is_larger == most) for s, is_larger in zip(scores, larger, strict=True)])
        for most in (True, False)
    )
    sides = rng(study.seed, repeat, "donor of the pair").integers(0, 2, size=pairs.shape[1])
    layer_scores, reasons = _layer_scores(context, trained)
    fresh_layer_scores, fresh_reasons = _layer_scores(context, fresh)
    progress(1)
    return SimilarityResult(
        scores,
        partners,
        pairs,
        least,
        sides,
        select_donors(pairs, len(study.noises), sides),
        fresh_scores,
        layer_scores,
        fresh_layer_scores,
        np.array([reasons, fresh_reasons]),
        aligned if study.align == "network" else [],
    )


def donors_used(donors: SubsetTrainingResult, similarity: SimilarityResult) -> list[np.ndarray]:
    """Return the donors' weights that filters are taken from, each [D, ...]: the aligned ones if there are some."""
    return similarity.aligned or donors.weights


def choice_of(similarity: SimilarityResult, measure: int, donors: int, *, least: bool = False) -> Choice:
    """Return the most (or the least) alike pair of filters for every position, by the measure at this position."""
    pairs = (similarity.least_pairs if least else similarity.pairs)[measure]
    filters = np.arange(len(pairs))
    positions = np.stack([filters, similarity.partners[measure, filters, pairs]], 1)
    return Choice(donor_pairs(donors)[pairs], positions, similarity.sides)


def _aligned(context: Context, repeat: int, weights: Sequence[np.ndarray], which: str) -> list[np.ndarray]:
    if context.study.align != "network":
        return list(weights)
    generator = rng(context.study.seed, repeat, f"alignment of {which}")
    return align_network(weights, context.hidden, generator).weights


def _filter_scores(context: Context, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [M, F, pairs] of donors' filters and which filters of the second donors they are with."""
    study, layers = context.study, to_filters(weights, context.kernels)
    if study.align == "filters":
        matched = [match_filters(name, layers) for name in study.measures]
        counts = [layer.shape[1] for layer in layers]
        first = np.repeat(np.cumsum([0, *counts[:-1]]), counts)  # of each filter's layer
        return np.stack([scores for scores, _ in matched]), np.stack([p + first[:, None] for _, p in matched])
    scores = np.stack([pair_scores(name, layers) for name in study.measures])
    own = np.broadcast_to(np.arange(scores.shape[1])[:, None], scores.shape)
    return scores, np.ascontiguousarray(own)


def _layer_scores(context: Context, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, list]:
    """Return scores [N, L, pairs] of donors' layers on clean test images, and the reasons of those that are NaN."""
    study, data = context.study, context.dataset
    activations = layer_activations(study.cnn, weights, context.test_images[:LAYER_IMAGES], data.classes)
    found = [[pair_layer_scores(name, a) for a in activations.values()] for name in study.layer_measures]
    return np.array([[f.scores for f in row] for row in found]), [[f.reasons for f in row] for row in found]


def summarise(context: Context, results: Sequence[SimilarityResult], inputs: dict[StepName, Sequence[Any]]) -> Summary:
    """Return the published report's tables 1 (similarity per filter) and 2 (selected pairs), layers, and pictures."""
    scores, fresh, layers, fresh_layers = (
        np.stack([getattr(r, name) for r in results]).astype(np.float64)  # [R, M, F, pairs] or [R, N, L, pairs]
        for name in ("scores", "fresh_scores", "layer_scores", "fresh_layer_scores")
    )
    pairs = np.stack([r.pairs for r in results], 1)  # [M, R, F]
    per_filter = per_filter_table(context, scores, fresh)
    selected, shown_pairs = pair_tables(context, pairs)
    donors = [donors_used(d, r) for d, r in zip(inputs["subset_training"], results, strict=True)]
    partners = np.stack([r.partners for r in results])
    extremes, extreme_figure = extreme_pairs(context, scores, partners, donors)
    layer_table = layers_table(context, layers, fresh_layers, np.stack([r.layer_reasons for r in results]))
    short = {c: [x for i, x in enumerate(column) if per_filter["filter"][i] == ALL] for c, column in per_filter.items()}
    return Summary(
        f"How alike the donors' filters are, by measure ({len(results)} repeats)\n\n{markdown(short)}\n\n"
        f"Most and least alike pairs of all\n\n{markdown(extremes)}\n\n"
        f"Pairs of donors selected most often\n\n{markdown(shown_pairs)}\n\n"
        f"How alike the donors' layers are\n\n{markdown(layer_table)}",
        {
            "similarity_per_filter": per_filter,
            "selected_pairs": selected,
            "extreme_pairs": extremes,
            "layer_similarity": layer_table,
        },
        pictures_of(context, scores, fresh, layers, fresh_layers, pairs) | {"extreme_pairs.png": extreme_figure},
        _metrics(context, scores, layers),
        terminal=f"Most alike filters, and the pair of donors chosen most often, over {len(results)} repeats\n\n"
        f"{text_table(extremes)}\n\n{text_table(shown_pairs)}",
        parts=parts_of(context, per_filter, selected, shown_pairs, extremes, layer_table),
    )


def _metrics(context: Context, scores: np.ndarray, layers: np.ndarray) -> list[tuple[str, float, int]]:
    """Return mean scores of filters, over all and by repeat, and of layers."""
    metrics = []
    for m, measure in enumerate(context.study.measures):
        name = file_name(measure)
        metrics.append((f"{name}_mean", float(scores[:, m].mean()), 0))
        metrics += [(f"repeats/{name}_mean", float(v), r) for r, v in enumerate(scores[:, m].mean((1, 2)), 1)]
    for n, measure in enumerate(context.study.layer_measures):
        for layer, (title, _) in enumerate(context.layers):
            defined = layers[:, n, layer][np.isfinite(layers[:, n, layer])]
            if defined.size:
                metrics.append((f"layers/{file_name(measure)}/{title}", float(defined.mean()), 0))
    return metrics


STEP = Step(
    "similarity",
    "similarity",
    SimilarityResult,
    compute,
    summarise,
    lambda context: 1,
    "extreme_pairs.png",
    needs=("subset_training",),
)
