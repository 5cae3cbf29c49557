"""The similarity step's tables: filters, chosen pairs, the extremes, layers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnnsim_tf.filters import to_filters
from cnnsim_tf.measures import donor_pairs, get_measure, pair_names
from cnnsim_tf.report.formats import p_value
from cnnsim_tf.statistics import PairSelection, describe, pair_selection
from cnnsim_tf.steps.similarity.repeat import SimilarityResult, donors_used
from cnnsim_tf.steps.step import Context

ALL = "all filters"


@dataclass(frozen=True)
class Stacked:
    """Results of R repeats side by side: M measures, F filters, N layer measures, L layers."""

    scores: np.ndarray  # [R, M, F, pairs] float64
    fresh: np.ndarray  # the same of the donors before their training
    layers: np.ndarray  # [R, N, L, pairs] float64, NaN where a measure is not defined
    fresh_layers: np.ndarray
    reasons: np.ndarray  # [R, 2, N, L, pairs] str, why a layer score (0) or a fresh one (1) is NaN
    partners: np.ndarray  # [R, M, F, pairs], which filter of the second donor was compared with the first one's
    pairs: np.ndarray  # [M, R, F], the most alike pair
    donors: list[list[np.ndarray]]  # per repeat their weights, each [D, ...]


def stacked(results: Sequence[SimilarityResult], donors: Sequence[Any]) -> Stacked:
    """Return results of all repeats side by side, and of those of subset training what filters are taken from."""
    return Stacked(
        scores=np.stack([r.scores for r in results]).astype(np.float64),
        fresh=np.stack([r.fresh_scores for r in results]).astype(np.float64),
        layers=np.stack([r.layer_scores for r in results]).astype(np.float64),
        fresh_layers=np.stack([r.fresh_layer_scores for r in results]).astype(np.float64),
        reasons=np.stack([r.layer_reasons for r in results]),
        partners=np.stack([r.partners for r in results]),
        pairs=np.stack([r.pairs for r in results], 1),
        donors=[donors_used(d, r) for d, r in zip(donors, results, strict=True)],
    )


@dataclass(frozen=True)
class Extreme:
    """The most or the least alike pair of filters by a measure, over all filters, pairs and repeats."""

    measure: str
    which: str  # most alike or least alike
    score: float
    repeat: int  # from 1
    filters: str  # its name, or those of both
    donors: tuple[int, int]  # from 0
    pair: str
    kernels: tuple[np.ndarray, np.ndarray]  # [h, w] each


def per_filter_table(context: Context, s: Stacked) -> pd.DataFrame:
    """Return the published report's table 1."""
    rows = []
    for m, measure in enumerate(context.study.measures):
        most = np.max if get_measure(measure).larger_is_more_alike else np.min
        for f, name in enumerate([*context.filter_names, ALL]):
            here = slice(f, f + 1) if f < s.scores.shape[2] else slice(None)
            values, null = (describe(x[:, m, here].ravel()) for x in (s.scores, s.fresh))
            rows.append(
                {
                    "measure": measure,
                    "filter": name,
                    "mean": values.mean,
                    "sd": values.sd,
                    "most alike": float(most(s.scores[:, m, here])),
                    "untrained mean": null.mean,
                    "untrained sd": null.sd,
                }
            )
    return pd.DataFrame(rows)


def selections(context: Context, s: Stacked) -> dict[str, PairSelection]:
    """Return by measure how often each pair of donors was chosen, against chance."""
    return {m: pair_selection(s.pairs[i], len(context.study.noises)) for i, m in enumerate(context.study.measures)}


def pair_tables(context: Context, tests: dict[str, PairSelection]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the published report's table 2 in full, and in short as people read it."""
    study = context.study
    positions, names = donor_pairs(len(study.noises)), pair_names(len(study.noises))
    full, short = [], []
    for measure, test in tests.items():
        chosen = test.counts[positions[:, 0], positions[:, 1]]
        for pair, name in enumerate(names):
            i, j = positions[pair]
            full.append(
                {
                    "measure": measure,
                    "pair": name,
                    "donors": f"{study.noises[i]}, {study.noises[j]}",
                    "times chosen": int(chosen[pair]),
                    "share %": 100 * chosen[pair] / chosen.sum(),
                }
            )
        best = [name for pair, name in enumerate(names) if chosen[pair] == chosen.max()]
        short.append(
            {
                "measure": measure,
                "most frequent pair": " and ".join(best),
                "share %": 100 * chosen.max() / chosen.sum(),
                "share % by chance": 100 / len(positions),
                "p most frequent": p_value(test.p_largest),
                "p uniform": p_value(test.p_uniform),
            }
        )
    return pd.DataFrame(full), pd.DataFrame(short)


def extremes(context: Context, s: Stacked) -> list[Extreme]:
    """Return the most and the least alike pair of filters of each measure."""
    found = []
    count = len(context.study.noises)
    pairs, names = donor_pairs(count), pair_names(count)
    for m, measure in enumerate(context.study.measures):
        larger = get_measure(measure).larger_is_more_alike
        for which, largest in (("most alike", larger), ("least alike", not larger)):
            find = np.argmax if largest else np.argmin
            r, f, p = map(int, np.unravel_index(find(s.scores[:, m]), s.scores[:, m].shape))
            other, (i, j) = int(s.partners[r, m, f, p]), map(int, pairs[p])
            title = context.filter_names[f] + (f" and {context.filter_names[other]}" if other != f else "")
            kernels = [x for layer in to_filters(s.donors[r], context.kernels) for x in layer.swapaxes(0, 1)]
            found.append(
                Extreme(
                    measure=measure,
                    which=which,
                    score=float(s.scores[r, m, f, p]),
                    repeat=r + 1,
                    filters=title,
                    donors=(i, j),
                    pair=names[p],
                    kernels=(kernels[f][i], kernels[other][j]),
                )
            )
    return found


def extremes_table(found: Sequence[Extreme]) -> pd.DataFrame:
    """Return a table of the most and the least alike filters."""
    return pd.DataFrame(
        [
            {
                "measure": e.measure,
                "which": e.which,
                "score": e.score,
                "repeat": e.repeat,
                "filter": e.filters,
                "pair": e.pair,
            }
            for e in found
        ]
    )


def layers_table(context: Context, s: Stacked) -> pd.DataFrame:
    """Return how alike donors' layers are."""
    rows = []
    for n, measure in enumerate(context.study.layer_measures):
        for layer, (name, _) in enumerate(context.layers):
            row: dict[str, Any] = {"measure": measure, "layer": name}
            for begin, values in (("", s.layers), ("untrained ", s.fresh_layers)):
                defined = values[:, n, layer][np.isfinite(values[:, n, layer])]
                of = describe(defined) if defined.size else None
                row |= {f"{begin}mean": of.mean if of else np.nan, f"{begin}sd": of.sd if of else np.nan}
            why = Counter(r for r in s.reasons[:, :, n, layer].ravel().tolist() if r)
            row["not defined"] = sum(why.values())
            row["why"] = "; ".join(f"{reason} ({times})" for reason, times in why.most_common(3))
            rows.append(row)
    return pd.DataFrame(rows)
