"""What the similarity step reports: tables, figures, and its sections of the report page."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cnnsim_tf import figures
from cnnsim_tf.filters import to_filters
from cnnsim_tf.layer_measures import get_layer_measure
from cnnsim_tf.measures import donor_pairs, get_measure, pair_names
from cnnsim_tf.report import published
from cnnsim_tf.report.formats import file_name, number, p_value, plus_minus
from cnnsim_tf.report.page import PageTable
from cnnsim_tf.selection import pair_counts
from cnnsim_tf.statistics import describe, pair_selection
from cnnsim_tf.steps.step import Context, Part, Table

ALL = "all filters"


def per_filter_table(context: Context, scores: np.ndarray, fresh: np.ndarray) -> Table:
    """Return the report's table 1 from scores [R, M, F, pairs] of donors and of the same before their training."""
    table: Table = {k: [] for k in ("measure", "filter", "mean", "sd", "most alike", "untrained mean", "untrained sd")}
    for m, measure in enumerate(context.study.measures):
        most = np.max if get_measure(measure).larger_is_more_alike else np.min
        for f, name in enumerate([*context.filter_names, ALL]):
            here = slice(f, f + 1) if f < scores.shape[2] else slice(None)
            values, null = (describe(x[:, m, here].ravel()) for x in (scores, fresh))
            row = (measure, name, values.mean, values.sd, float(most(scores[:, m, here])), null.mean, null.sd)
            for key, value in zip(table, row, strict=True):
                table[key].append(value)
    return table


def pair_tables(context: Context, pairs: np.ndarray) -> tuple[Table, Table]:
    """Return the report's table 2 in full and in short from the chosen pairs [M, R, F]."""
    study = context.study
    count = len(study.noises)
    positions, names = donor_pairs(count), pair_names(count)
    full: Table = {k: [] for k in ("measure", "pair", "donors", "times chosen", "share %")}
    short: Table = {
        k: [] for k in ("measure", "most frequent pair", "share %", "share % by chance", "p most frequent", "p uniform")
    }
    for m, measure in enumerate(study.measures):
        test = pair_selection(pairs[m], count)
        chosen = test.counts[positions[:, 0], positions[:, 1]]
        for (i, j), name, times in zip(positions, names, chosen, strict=True):
            row = (measure, name, f"{study.noises[i]}, {study.noises[j]}", int(times), 100 * times / chosen.sum())
            for key, value in zip(full, row, strict=True):
                full[key].append(value)
        best = np.flatnonzero(chosen == chosen.max())
        shown = (
            *(measure, " and ".join(names[b] for b in best), 100 * chosen.max() / chosen.sum(), 100 / len(positions)),
            *(p_value(test.p_largest), p_value(test.p_uniform)),
        )
        for key, value in zip(short, shown, strict=True):
            short[key].append(value)
    return full, short


def extreme_pairs(
    context: Context, scores: np.ndarray, partners: np.ndarray, donors: Sequence[Sequence[np.ndarray]]
) -> tuple[Table, Figure]:
    """Return the most and the least alike pair of filters per measure, as a table and a figure.

    Args:
        context: of the study.
        scores: [R, M, F, pairs].
        partners: [R, M, F, pairs], which filter of the second donor was compared with the first one's.
        donors: per repeat their weights, each [D, ...].
    """
    table: Table = {k: [] for k in ("measure", "which", "score", "repeat", "filter", "pair")}
    drawn: dict[str, list[figures.FilterPair]] = {"most alike": [], "least alike": []}
    count = len(context.study.noises)
    pairs, names = donor_pairs(count), pair_names(count)
    for m, measure in enumerate(context.study.measures):
        larger = get_measure(measure).larger_is_more_alike
        for which, largest in (("most alike", larger), ("least alike", not larger)):
            find = np.argmax if largest else np.argmin
            r, f, p = map(int, np.unravel_index(find(scores[:, m]), scores[:, m].shape))
            other = int(partners[r, m, f, p])
            title = context.filter_names[f] + (f" and {context.filter_names[other]}" if other != f else "")
            row = (measure, which, float(scores[r, m, f, p]), r + 1, title, names[p])
            for key, value in zip(table, row, strict=True):
                table[key].append(value)
            filters = [x for layer in to_filters(donors[r], context.kernels) for x in layer.swapaxes(0, 1)]
            i, j = pairs[p]
            caption = f"repeat {r + 1}, {title}, donors {i + 1} and {j + 1}"
            drawn[which].append(figures.FilterPair(measure, row[2], (filters[f][i], filters[other][j]), caption))
    return table, figures.extreme_pairs(drawn["most alike"], drawn["least alike"])


def layers_table(context: Context, scores: np.ndarray, fresh: np.ndarray, reasons: np.ndarray) -> Table:
    """Return how alike donors' layers are.

    Args:
        context: of the study.
        scores: [R, N, L, pairs] of N layer measures; NaN where one is not defined.
        fresh: the same before the donors' training.
        reasons: [R, 2, N, L, pairs] str, why a score (0) or a fresh one (1) is NaN.
    """
    columns = ("measure", "layer", "mean", "sd", "untrained mean", "untrained sd", "not defined", "why")
    table: Table = {k: [] for k in columns}
    for n, measure in enumerate(context.study.layer_measures):
        for layer, (name, _) in enumerate(context.layers):
            row: list = [measure, name]
            for values in (scores, fresh):
                defined = values[:, n, layer][np.isfinite(values[:, n, layer])]
                summary = describe(defined) if defined.size else None
                row += [summary.mean, summary.sd] if summary else [None, None]
            why = Counter(r for r in reasons[:, :, n, layer].ravel().tolist() if r)
            row += [sum(why.values()), "; ".join(f"{reason} ({times})" for reason, times in why.most_common(3))]
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    return table


def pictures_of(
    context: Context,
    scores: np.ndarray,
    fresh: np.ndarray,
    layers: np.ndarray,
    fresh_layers: np.ndarray,
    pairs: np.ndarray,
) -> dict[str, Figure]:
    """Return the step's figures from scores [R, M, F, pairs], layer scores [R, N, L, pairs], chosen pairs [M, R, F]."""
    study, names = context.study, [name for name, _ in context.layers]
    counts = np.stack([pair_counts(chosen, len(study.noises)) for chosen in pairs])
    flat, flat_fresh, flat_layers, flat_fresh_layers = (
        np.moveaxis(x, 0, -2).reshape(*x.shape[1:3], -1) for x in (scores, fresh, layers, fresh_layers)
    )
    pictures = {
        "pair_counts.png": figures.pair_counts(counts, study.measures, study.noises),
        "layer_similarity.png": figures.layer_similarity(flat_layers, flat_fresh_layers, study.layer_measures, names),
    }
    for m, name in enumerate(study.measures):
        pictures[f"score_{file_name(name)}.png"] = figures.score_heatmap(
            scores[:, m],
            name,
            context.filter_names,
            pair_names(len(study.noises)),
            get_measure(name).larger_is_more_alike,
        )
        pictures[f"null_{file_name(name)}.png"] = figures.scores_against_null(
            flat[m], flat_fresh[m], context.filter_names, name
        )
    return pictures


def parts_of(
    context: Context, per_filter: Table, selected: Table, shown_pairs: Table, extremes: Table, layers: Table
) -> list[Part]:
    """Return the step's sections of the report page."""
    study = context.study
    notes = [_published_filters(), _published_extremes(), _published_pairs()] if context.published else [""] * 3
    nulls = {
        f"null_{file_name(name)}.png": (
            f"Scores of trained donors beside those of the same networks before training, by {name}: similarity that "
            "training brought about lies beyond what untrained networks have",
            _in_words(per_filter, name),
        )
        for name in study.measures
    }
    heatmaps = {
        f"score_{file_name(name)}.png": (
            f"Mean score of every filter and pair of donors by {name}: whether some pair stands out in all filters",
            _in_words(per_filter, name),
        )
        for name in study.measures
    }
    counts = "; ".join(
        f"{m}: {pair} ({number(share, '.1f')} %)"
        for m, pair, share in zip(*(shown_pairs[k] for k in ("measure", "most frequent pair", "share %")), strict=True)
    )
    return [
        Part(
            "How alike the donors' filters are",
            _aligned_in_words(context),
            [
                PageTable(
                    "Similarity per filter over all pairs and repeats (the published report's table 1)",
                    per_filter,
                    notes[0],
                ),
                PageTable("The most and the least alike filters of all", _rounded(extremes), notes[1]),
            ],
            {
                **nulls,
                **heatmaps,
                "extreme_pairs.png": (
                    "The most and the least alike filters of all: whether they look alike",
                    "The table above names them.",
                ),
            },
        ),
        Part(
            "Which pairs are chosen",
            "Chance: donors renamed at random within each repeat, which keeps what a donor's filters have in common.",
            [
                PageTable("The pair chosen most often (the published report's table 2)", shown_pairs, notes[2]),
                PageTable("How often each pair is chosen", selected),
            ],
            {
                "pair_counts.png": (
                    "How often each pair of donors is chosen: an even spread is what chance alone would give",
                    f"Most frequent pairs: {counts}.",
                )
            },
        ),
        Part(
            "How alike the donors' layers are",
            "\n".join(f"- {name}: {get_layer_measure(name).row}" for name in study.layer_measures),
            [PageTable("Similarity of layers over all pairs and repeats", layers)],
            {
                "layer_similarity.png": (
                    "Similarity of the donors' layers beside that of the same networks before training: how far apart "
                    "the two are, layer by layer",
                    "; ".join(
                        f"{m} {n}: {number(x)} trained, {number(y)} untrained"
                        for m, n, x, y in zip(
                            *(layers[k] for k in ("measure", "layer", "mean", "untrained mean")), strict=True
                        )
                    ),
                )
            },
        ),
    ]


def _in_words(per_filter: Table, measure: str) -> str:
    i = next(i for i, m in enumerate(per_filter["measure"]) if m == measure and per_filter["filter"][i] == ALL)
    trained, fresh = (
        plus_minus(per_filter[f"{which}mean"][i], per_filter[f"{which}sd"][i], 3) for which in ("", "untrained ")
    )
    return f"Over all filters: {trained} for trained donors, {fresh} before training."


def _aligned_in_words(context: Context) -> str:
    return {
        "none": "Filters are compared where they stand: each with the other donor's filter at the same position.",
        "filters": "Filters are matched one to one within each layer before they are compared (align filters).",
        "network": "Whole donors were aligned with donor 1, their units permuted and scaled (align network).",
    }[context.study.align]


def _rounded(table: Table) -> Table:
    return table | {"score": [number(score, ".4f") for score in table["score"]]}


def _published_filters() -> str:
    conv1, conv2 = published.FROBENIUS_MEAN["conv1"], published.FROBENIUS_MEAN["conv2"]
    return (
        f"Published: |Pearson| {published.PEARSON_MEAN.low} to {published.PEARSON_MEAN.high} (sd "
        f"{published.PEARSON_SD.low} to {published.PEARSON_SD.high}); Frobenius {conv1.low} to {conv1.high} (conv1) "
        f"and {conv2.low} to {conv2.high} (conv2)."
    )


def _published_extremes() -> str:
    return "Published, most alike: " + ", ".join(f"{m} {score}" for m, score in published.MOST_ALIKE.items()) + "."


def _published_pairs() -> str:
    pairs = ", ".join(f"{m} {i}-{j}" for m, (i, j) in published.MOST_FREQUENT_PAIR.items())
    return f"Published: {pairs}."
