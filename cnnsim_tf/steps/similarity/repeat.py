"""What the similarity step computes: scores of filters and layers, and which filters are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np

from cnnsim_tf.alignment import align_network, match_filters
from cnnsim_tf.filters import ConvKernel, to_filters
from cnnsim_tf.layer_measures import get_layer_measure, pair_layer_scores
from cnnsim_tf.measures import donor_pairs, filter_scores, get_measure, pair_scores
from cnnsim_tf.networks import check_layers, layer_activations
from cnnsim_tf.passes import Progress
from cnnsim_tf.report.formats import listed
from cnnsim_tf.schemes import Choice
from cnnsim_tf.seeds import rng
from cnnsim_tf.selection import select_donors, select_pairs
from cnnsim_tf.steps.arrays import Array
from cnnsim_tf.steps.step import LAYER_IMAGES, Context, passing
from cnnsim_tf.steps.subset_training import SubsetTrainingResult, donors_in, initial_donors

ROUNDING = 1e-4  # by which a score may be outside of its measure's range
SCORES = Array("M F pairs", np.float32, low="low score", high="high score")
LAYER_SCORES = Array("N L pairs", np.float32, low="low layer score", high="high layer score", finite=False)
PAIRS = Array("M F", np.int64, low=0, below="pairs")
LEAST_PAIRS = replace(PAIRS, kept=False)


@dataclass(frozen=True)
class SimilarityResult:
    """One repeat: M measures, F filters, D donors (15 pairs of six), N layer measures, L layers.

    "Fresh" are the donors before their training: the null that scores are to be read against.
    """

    scores: Annotated[np.ndarray, SCORES]
    # Which filter of the second donor was compared with the first one's.
    partners: Annotated[np.ndarray, Array("M F pairs", np.int64, low=0, below="F", kept=False)]
    pairs: Annotated[np.ndarray, PAIRS]  # the most alike pair, its position in the order of pairs
    least_pairs: Annotated[np.ndarray, LEAST_PAIRS]  # the least alike pair
    # Which donor of a chosen pair was drawn, the same for all measures; and who it is of the most alike pair, from 0.
    sides: Annotated[np.ndarray, Array("F", np.int64, low=0, high=1, kept=False)]
    donors: Annotated[np.ndarray, Array("M F", np.int64, low=0, below="D", kept=False)]
    fresh_scores: Annotated[np.ndarray, SCORES]
    layer_scores: Annotated[np.ndarray, LAYER_SCORES]  # NaN where a measure is not defined
    fresh_layer_scores: Annotated[np.ndarray, LAYER_SCORES]
    layer_reasons: Annotated[np.ndarray, Array("2 N L pairs", str)]  # why a layer score (0) or a fresh one (1) is NaN
    # With align=network: the donors' weights by name in Keras's order.
    aligned: Annotated[dict[str, np.ndarray], Array("D aligned", np.float32, kept=False)] = field(default_factory=dict)
    noised_tests: Sequence[np.ndarray] = passing(())  # handed on from the donors


def sizes(context: Context) -> dict[str, Any]:
    """Return what the names in the result's declaration stand for."""
    study, donors = context.study, len(context.donors)
    measures = [get_measure(name) for name in study.measures]
    layer_measures = [get_layer_measure(name) for name in study.layer_measures]
    bounds = {
        f"{end} {of}": np.array([getattr(m, end) + slack for m in entries])[:, None, None]
        for of, entries in (("score", measures), ("layer score", layer_measures))
        for end, slack in (("low", -ROUNDING), ("high", ROUNDING))
    }
    return bounds | {
        "M": len(measures),
        "F": sum(kernel.filters for kernel in context.kernels),
        "D": donors,
        "pairs": donors * (donors - 1) // 2,
        "N": len(layer_measures),
        "L": len(context.layers),
        "aligned": context.weight_shapes if study.align == "network" else {},
    }


def check(context: Context) -> list[str]:
    """Return a sentence where filters of one weight cannot be told apart.

    Raises:
        StudyError: the CNN cannot be looked into or aligned.
    """
    check_layers(*context.cnn)
    if context.study.align == "network":
        _ = context.hidden  # raises where units cannot be followed from layer to layer
    return [said] if (said := told_of_blindness(context)) else []


def told_of_blindness(context: Context) -> str:
    """Return a sentence where measures cannot tell the filters of 1×1 convolutions apart, or ''."""
    single = [kernel.layer for kernel in context.kernels if _of_one_weight(kernel)]
    blind = [name for name in context.study.measures if single and _is_blind(name)]
    if not blind:
        return ""
    return (
        f"filters of 1×1 convolutions ({', '.join(single[:3])}{', …' * (len(single) > 3)}) are one weight each, which "
        f"{listed(blind)} cannot tell apart: their scores there say nothing, and pairs are drawn"
    )


def _of_one_weight(kernel: ConvKernel) -> bool:
    return kernel.shape[:2] == (1, 1)


def _is_blind(measure: str) -> bool:
    """Return whether a measure gives all filters of one weight the same score."""
    return bool(np.ptp(filter_scores(measure, *np.random.default_rng(0).normal(size=(2, 32, 1, 1)))) < ROUNDING)


def _drawn_where_blind(context: Context, repeat: int, pairs: np.ndarray, which: str) -> np.ndarray:
    """Return chosen pairs [M, F], drawn where the measure cannot tell a filter from others: the same for all such."""
    single = np.concatenate([np.full(kernel.filters, _of_one_weight(kernel)) for kernel in context.kernels])
    if not single.any():
        return pairs
    blind = np.array([_is_blind(name) for name in context.study.measures])
    count = len(donor_pairs(len(context.donors)))
    drawn = rng(context.study.seed, repeat, f"{which} alike filters of one weight").integers(count, size=pairs.shape[1])
    return np.where(blind[:, None] & single, drawn, pairs)


def passes(context: Context) -> int:
    """Return that no images are counted: a repeat is one."""
    return 1


def compute(context: Context, repeat: int, inputs: dict[str, Any], progress: Progress) -> SimilarityResult:
    """Score every filter over every pair of donors and choose; score layers; do the same for the untrained donors."""
    study = context.study
    donors: SubsetTrainingResult = donors_in(inputs)
    trained, fresh = list(donors.weights.values()), donors.initial or initial_donors(context, repeat)
    aligned = _aligned(context, repeat, trained, "donors")
    scores, partners = _filter_scores(context, aligned)
    fresh_scores, _ = _filter_scores(context, _aligned(context, repeat, fresh, "fresh donors"))
    larger = [get_measure(name).larger_is_more_alike for name in study.measures]
    pairs, least = (
        _drawn_where_blind(
            context,
            repeat,
            np.stack([select_pairs(s, is_larger == most) for s, is_larger in zip(scores, larger, strict=True)]),
            "most" if most else "least",
        )
        for most in (True, False)
    )
    sides = rng(study.seed, repeat, "donor of the pair").integers(0, 2, size=pairs.shape[1])
    layer_scores, reasons = _layer_scores(context, trained)
    fresh_layer_scores, fresh_reasons = _layer_scores(context, fresh)
    progress(1)
    return SimilarityResult(
        scores=scores,
        partners=partners,
        pairs=pairs,
        least_pairs=least,
        sides=sides,
        donors=select_donors(pairs, len(context.donors), sides),
        fresh_scores=fresh_scores,
        layer_scores=layer_scores,
        fresh_layer_scores=fresh_layer_scores,
        layer_reasons=np.array([reasons, fresh_reasons]),
        aligned=context.named(aligned) if study.align == "network" else {},
        noised_tests=donors.noised_tests,
    )


def donors_used(donors: SubsetTrainingResult, similarity: SimilarityResult) -> list[np.ndarray]:
    """Return the donors' weights that filters are taken from, each [D, ...]: the aligned ones if there are some."""
    return list((similarity.aligned or donors.weights).values())


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
