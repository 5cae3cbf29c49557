"""Step 3: how alike the donors' filters are, and which are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cnnsim_tf import figures
from cnnsim_tf.filters import to_filters
from cnnsim_tf.measures import donor_pairs, get_measure, pair_names, pair_scores
from cnnsim_tf.report import file_name, markdown, text_table
from cnnsim_tf.seeds import rng
from cnnsim_tf.selection import pair_counts, select_donors, select_pairs
from cnnsim_tf.statistics import describe
from cnnsim_tf.steps.step import Context, Step, Summary, Table
from cnnsim_tf.steps.subset_training import SubsetTrainingResult
from cnnsim_tf.study import StepName
from cnnsim_tf.training import Progress


@dataclass(frozen=True)
class SimilarityResult:
    """One repeat: M measures, F filters, 15 pairs of six donors."""

    scores: np.ndarray  # [M, F, pairs] float32
    pairs: np.ndarray  # [M, F] int64, the chosen pair, its position in the order of pairs
    donors: np.ndarray  # [M, F] int64, the donor chosen of that pair, from 0


def compute(context: Context, repeat: int, inputs: dict[StepName, Any], progress: Progress) -> SimilarityResult:
    """Score every filter over every pair of donors and choose."""
    study = context.study
    donors: SubsetTrainingResult = inputs["subset_training"]
    layers = to_filters(donors.weights, context.kernels)
    scores = np.stack([pair_scores(name, layers) for name in study.measures])
    pairs = np.stack(
        [select_pairs(s, get_measure(n).larger_is_more_alike) for n, s in zip(study.measures, scores, strict=True)]
    )
    chosen = np.stack(
        [select_donors(p, len(study.noises), rng(study.seed, repeat, "donor of the pair")) for p in pairs]
    )
    progress(1)
    return SimilarityResult(scores, pairs, chosen)


def summarise(context: Context, results: Sequence[SimilarityResult], inputs: dict[StepName, Sequence[Any]]) -> Summary:
    """Return the published report's tables 1 (similarity per filter) and 2 (selected pairs), with pictures."""
    study = context.study
    scores = np.stack([r.scores for r in results]).astype(np.float64)  # [R, M, F, pairs]
    counts = np.stack(
        [pair_counts(np.stack([r.pairs[m] for r in results]), len(study.noises)) for m in range(len(study.measures))]
    )
    per_filter = _per_filter_table(context, scores)
    selected, shown_pairs = _pair_tables(context, counts)
    extremes, extreme_figure = _extremes(context, scores, inputs["subset_training"])
    pictures = {
        f"score_{file_name(name)}.png": figures.score_heatmap(
            scores[:, m],
            name,
            context.filter_names,
            pair_names(len(study.noises)),
            get_measure(name).larger_is_more_alike,
        )
        for m, name in enumerate(study.measures)
    }
    pictures |= {
        "extreme_pairs.png": extreme_figure,
        "pair_counts.png": figures.pair_counts(counts, study.measures, study.noises),
    }
    means = [(f"{file_name(n)}_mean", float(scores[:, m].mean()), 0) for m, n in enumerate(study.measures)]
    repeat_means = [
        (f"repeats/{file_name(n)}_mean", float(v), r)
        for m, n in enumerate(study.measures)
        for r, v in enumerate(scores[:, m].mean((1, 2)), 1)
    ]
    note = (
        f"Most alike filters over all {len(results)} repeats, and the pair of donors chosen most often\n\n"
        f"{markdown(extremes)}\n\n{markdown(shown_pairs)}\n\n"
        f"Scores per filter over the {scores.shape[-1]} pairs and all repeats\n\n{markdown(per_filter)}"
    )
    return Summary(
        note,
        {"similarity_per_filter": per_filter, "selected_pairs": selected, "extreme_pairs": extremes},
        pictures,
        means + repeat_means,
        terminal=f"Most alike filters, and the pair of donors chosen most often, over {len(results)} repeats\n\n"
        f"{text_table(extremes)}\n\n{text_table(shown_pairs)}",
    )


def _per_filter_table(context: Context, scores: np.ndarray) -> Table:
    """Return the report's table 1 from scores [R, M, F, pairs]."""
    table: Table = {k: [] for k in ("measure", "filter", "mean", "sd", "most alike")}
    for m, measure in enumerate(context.study.measures):
        most = np.max if get_measure(measure).larger_is_more_alike else np.min
        for f, name in enumerate([*context.filter_names, "all filters"]):
            values = (scores[:, m, f] if f < scores.shape[2] else scores[:, m]).ravel()
            summary = describe(values)
            row = (measure, name, summary.mean, summary.sd, float(most(values)))
            for key, value in zip(table, row, strict=True):
                table[key].append(value)
    return table


def _pair_tables(context: Context, counts: np.ndarray) -> tuple[Table, Table]:
    """Return the report's table 2 in full and in short from counts [M, D, D]."""
    study = context.study
    pairs, names = donor_pairs(len(study.noises)), pair_names(len(study.noises))
    full: Table = {k: [] for k in ("measure", "pair", "donors", "times chosen", "share %")}
    short: Table = {k: [] for k in ("measure", "most frequent pair", "share %", "share % by chance")}
    for m, measure in enumerate(study.measures):
        chosen = counts[m][pairs[:, 0], pairs[:, 1]]
        for (i, j), name, count in zip(pairs, names, chosen, strict=True):
            row = (measure, name, f"{study.noises[i]}, {study.noises[j]}", int(count), 100 * count / chosen.sum())
            for key, value in zip(full, row, strict=True):
                full[key].append(value)
        best = np.flatnonzero(chosen == chosen.max())
        short["measure"].append(measure)
        short["most frequent pair"].append(" and ".join(names[b] for b in best))
        short["share %"].append(100 * chosen.max() / chosen.sum())
        short["share % by chance"].append(100 / len(pairs))
    return full, short


def _extremes(context: Context, scores: np.ndarray, donors: Sequence[SubsetTrainingResult]) -> tuple[Table, Figure]:
    """Return the most and the least alike pair of filters per measure, as a table and a figure."""
    table: Table = {k: [] for k in ("measure", "which", "score", "repeat", "filter", "pair")}
    drawn: dict[str, list[figures.FilterPair]] = {"most alike": [], "least alike": []}
    count = len(context.study.noises)
    pairs, names = donor_pairs(count), pair_names(count)
    for m, measure in enumerate(context.study.measures):
        larger = get_measure(measure).larger_is_more_alike
        for which, largest in (("most alike", larger), ("least alike", not larger)):
            find = np.argmax if largest else np.argmin
            r, f, p = map(int, np.unravel_index(find(scores[:, m]), scores[:, m].shape))
            row = (measure, which, float(scores[r, m, f, p]), r + 1, context.filter_names[f], names[p])
            for key, value in zip(table, row, strict=True):
                table[key].append(value)
            filters = [x for layer in to_filters(donors[r].weights, context.kernels) for x in layer.swapaxes(0, 1)]
            caption = f"repeat {r + 1}, {context.filter_names[f]}, donors {pairs[p][0] + 1} and {pairs[p][1] + 1}"
            pair = figures.FilterPair(measure, row[2], tuple(filters[f][pairs[p]]), caption)
            drawn[which].append(pair)
    return table, figures.extreme_pairs(drawn["most alike"], drawn["least alike"])


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
