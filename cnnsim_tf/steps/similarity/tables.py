"""The similarity step's tables: filters, chosen pairs, the extremes, layers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cnnsim_tf.figures import FilterPair
from cnnsim_tf.filters import Groups, to_filters
from cnnsim_tf.measures import donor_pairs, get_measure, pair_names
from cnnsim_tf.report.formats import p_value
from cnnsim_tf.statistics import PairSelection, describe, pair_selection
from cnnsim_tf.steps.arrays import declared
from cnnsim_tf.steps.kept import column, whole
from cnnsim_tf.steps.similarity.repeat import SimilarityResult, donors_used
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.subset_training import SubsetTrainingResult

ALL = "all filters"


def stacked(results: Sequence[SimilarityResult]) -> SimilarityResult:
    """Return results of R repeats as one whose arrays have R in front, [R, ...]: scores float32, as they are."""
    kept = {name: column(results, name) for name, array in declared(SimilarityResult).items() if array.kept}
    return SimilarityResult(**dict.fromkeys(declared(SimilarityResult)) | kept)  # type: ignore[arg-type]


def per_filter_table(context: Context, s: SimilarityResult, groups: Groups) -> pd.DataFrame:
    """Return the published report's table 1: of filters, or of groups of them, by their names and places."""
    rows = []
    for m, measure in enumerate(context.study.measures):
        most = np.max if get_measure(measure).larger_is_more_alike else np.min
        for name, here in [*groups, (ALL, slice(None))]:
            values, null = (describe(x[:, m, here].ravel()) for x in (s.scores, s.fresh_scores))
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


def selections(context: Context, s: SimilarityResult) -> dict[str, PairSelection]:
    """Return by measure how often each pair of donors was chosen, against chance."""
    return {m: pair_selection(s.pairs[:, i], len(context.donors)) for i, m in enumerate(context.study.measures)}


def pair_tables(context: Context, tests: dict[str, PairSelection]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the published report's table 2 in full, and in short as people read it."""
    positions, names = donor_pairs(len(context.donors)), pair_names(len(context.donors))
    full, short = [], []
    for measure, test in tests.items():
        chosen = test.counts[positions[:, 0], positions[:, 1]]
        for pair, name in enumerate(names):
            i, j = positions[pair]
            full.append(
                {
                    "measure": measure,
                    "pair": name,
                    "donors": f"{context.donors[i]}, {context.donors[j]}",
                    "times chosen": int(chosen[pair]),
                    "share %": 100 * chosen[pair] / chosen.sum(),
                }
            )
        best = [name for pair, name in enumerate(names) if chosen[pair] == chosen.max()]
        share = 100 * chosen.max() / chosen.sum()
        row = {"measure": measure, "most frequent pair": " and ".join(best), "share %": share}
        if not context.own:  # else repeats are no replicates of them
            row |= {
                "share % by chance": 100 / len(positions),
                "p most frequent": p_value(test.p_largest),
                "p uniform": p_value(test.p_uniform),
            }
        short.append(row)
    return pd.DataFrame(full), pd.DataFrame(short)


def extremes(
    context: Context,
    s: SimilarityResult,
    results: Sequence[SimilarityResult],
    donors: Sequence[SubsetTrainingResult],
) -> tuple[pd.DataFrame, dict[str, list[FilterPair]]]:
    """Return the most and the least alike pair of filters of each measure, over all filters, pairs and repeats.

    Args:
        context: of the study.
        s: results of all repeats side by side.
        results: the same, a repeat each.
        donors: of these repeats.

    Returns:
        A table, a row per measure and end; and the filters, by `most alike` and `least alike`.
    """
    rows: list[dict[str, Any]] = []
    drawn: dict[str, list[FilterPair]] = {"most alike": [], "least alike": []}
    count = len(context.donors)
    pairs, names = donor_pairs(count), pair_names(count)
    for m, measure in enumerate(context.study.measures):
        larger = get_measure(measure).larger_is_more_alike
        for which, largest in (("most alike", larger), ("least alike", not larger)):
            find = np.argmax if largest else np.argmin
            r, f, p = map(int, np.unravel_index(find(s.scores[:, m]), s.scores[:, m].shape))
            similarity = whole(results, r)
            other, score, (i, j) = int(similarity.partners[m, f, p]), float(s.scores[r, m, f, p]), pairs[p]
            title = context.filter_names[f] + (f" and {context.filter_names[other]}" if other != f else "")
            cells = {"measure": measure, "which": which, "score": score, "repeat": r + 1, "filter": title}
            rows.append(cells | {"pair": names[p]})
            used = donors_used(whole(donors, r), similarity)
            kernels = [x for layer in to_filters(used, context.kernels) for x in layer.swapaxes(0, 1)]
            where = f"repeat {r + 1}, {title}, donors {i + 1} and {j + 1}"
            drawn[which].append(FilterPair(measure, score, (kernels[f][i], kernels[other][j]), where))
    return pd.DataFrame(rows), drawn


def layers_table(context: Context, s: SimilarityResult) -> pd.DataFrame:
    """Return how alike donors' layers are."""
    rows = []
    for n, measure in enumerate(context.study.layer_measures):
        for layer, (name, _) in enumerate(context.layers):
            row: dict[str, Any] = {"measure": measure, "layer": name}
            for begin, values in (("", s.layer_scores), ("untrained ", s.fresh_layer_scores)):
                defined = values[:, n, layer][np.isfinite(values[:, n, layer])]
                of = describe(defined) if defined.size else None
                row |= {f"{begin}mean": of.mean if of else np.nan, f"{begin}sd": of.sd if of else np.nan}
            why = Counter(r for r in s.layer_reasons[:, :, n, layer].ravel().tolist() if r)
            row["not defined"] = sum(why.values())
            row["why"] = "; ".join(f"{reason} ({times})" for reason, times in why.most_common(3))
            rows.append(row)
    return pd.DataFrame(rows)
