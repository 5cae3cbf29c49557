"""What the similarity step shows of all its repeats: tables, figures, sections of the report page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cnnsim_tf import figures
from cnnsim_tf.filters import kind_of
from cnnsim_tf.layer_measures import get_layer_measure
from cnnsim_tf.measures import get_measure, pair_names
from cnnsim_tf.report import published
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import file_name, markdown, number, plus_minus, sentence, text_table
from cnnsim_tf.report.page import PageTable, Part, Shown
from cnnsim_tf.statistics import PairSelection
from cnnsim_tf.steps.similarity.repeat import SimilarityResult, told_of_blindness
from cnnsim_tf.steps.similarity.tables import (
    ALL,
    extremes,
    layers_table,
    pair_tables,
    per_filter_table,
    selections,
    stacked,
)
from cnnsim_tf.steps.step import Context, Metric, Summary, by_repeat
from cnnsim_tf.steps.subset_training import donors_in

ALIGNED_IN_WORDS = {
    "none": "Filters are compared where they stand: each with the other donor's filter at the same position.",
    "filters": "Filters are matched one to one within each layer before they are compared (align filters).",
    "network": "Whole donors were aligned with donor 1, their units permuted and scaled (align network).",
}


def summarise(context: Context, results: Sequence[SimilarityResult], inputs: dict[str, Sequence[Any]]) -> Summary:
    """Return the published report's tables 1 (similarity per filter) and 2 (selected pairs), layers, and pictures."""
    s = stacked(results)
    listed, shown = (per_filter_table(context, s, groups) for groups in (context.listed_groups, context.shown_groups))
    layers, tests = layers_table(context, s), selections(context, s)
    selected, chosen = pair_tables(context, tests)
    extreme, drawn = extremes(context, s, results, donors_in(inputs))
    rounded = extreme.assign(score=extreme["score"].map(lambda score: number(score, ".4f")))
    in_short = listed[listed["filter"] == ALL]
    return Summary(
        note=f"How alike the donors' filters are, by measure ({len(results)} repeats)\n\n{markdown(in_short)}\n\n"
        f"Most and least alike pairs of all\n\n{markdown(rounded)}\n\n"
        f"Pairs of donors selected most often\n\n{markdown(chosen)}\n\n"
        f"How alike the donors' layers are\n\n{markdown(layers)}",
        parts=[
            _filters(context, s, shown, rounded, drawn),
            _pairs(context, tests, selected, chosen),
            _layers(context, s, layers),
        ],
        tables={
            "similarity_per_filter": listed,
            "selected_pairs": selected,
            "extreme_pairs": extreme,
            "layer_similarity": layers,
        },
        metrics=_metrics(context, s, layers),
        terminal=f"Most alike filters, and the pair of donors chosen most often, over {len(results)} repeats\n\n"
        f"{text_table(rounded)}\n\n{text_table(chosen)}",
    )


def _null(context: Context) -> str:
    """Return what untrained networks are, which scores are to be read against."""
    return "fresh networks of their architecture" if context.own else "the same networks before training"


def _metrics(context: Context, s: SimilarityResult, layers: pd.DataFrame) -> list[Metric]:
    """Return mean scores of filters, over all and by repeat, and of layers."""
    metrics = []
    for m, measure in enumerate(context.study.measures):
        name = file_name(measure)
        scores = s.scores[:, m].astype(np.float64)
        metrics.append((f"filters/{name}_mean", float(scores.mean()), 0))
        metrics += by_repeat(f"filters/{name}_per_repeat", scores.mean((1, 2)))
    for _, row in layers[layers["mean"].notna()].iterrows():
        metrics.append((f"layers/{file_name(row['measure'])}/{row['layer']}", row["mean"], 0))
    return metrics


def _filters(
    context: Context,
    s: SimilarityResult,
    per_filter: pd.DataFrame,
    extreme: pd.DataFrame,
    drawn: dict[str, list[figures.FilterPair]],
) -> Part:
    study = context.study
    notes = (published.FILTERS, published.MOST_ALIKE) if context.published else ("", "")
    null = _null(context)
    untrained = f"The columns that begin with untrained are of {null}."
    groups, what = context.shown_groups, kind_of(context.shown_groups)
    pictures = {}
    for m, name in enumerate(study.measures):
        row = per_filter[(per_filter["measure"] == name) & (per_filter["filter"] == ALL)].iloc[0]
        in_words = (
            f"Over all filters: {plus_minus(row['mean'], row['sd'], 3)} for trained donors, "
            f"{plus_minus(row['untrained mean'], row['untrained sd'], 3)} untrained."
        )
        trained, fresh = (np.moveaxis(x[:, m], 0, 1) for x in (s.scores, s.fresh_scores))  # [F, R, P]
        pictures[f"null_{file_name(name)}.png"] = Shown(
            Drawing(figures.scores_against_null, trained, fresh, groups, name),
            f"Scores of trained donors beside those of {null}, by {name}: similarity that "
            "training brought about lies beyond what untrained networks have",
            in_words,
        )
        pictures[f"score_{file_name(name)}.png"] = Shown(
            Drawing(
                figures.score_heatmap,
                s.scores[:, m],
                name,
                groups,
                pair_names(len(context.donors)),
                get_measure(name).larger_is_more_alike,
            ),
            f"Mean score of every {what} and pair of donors by {name}: whether some pair stands out in all of them",
            in_words,
        )
    pictures["extreme_pairs.png"] = Shown(
        Drawing(figures.extreme_pairs, drawn["most alike"], drawn["least alike"]),
        "The most and the least alike filters of all: whether they look alike",
        "The table above names them.",
    )
    caption = f"Similarity per {what} over all pairs and repeats{context.as_published(1)}"
    return Part(
        "How alike the donors' filters are",
        "\n\n".join(filter(None, [ALIGNED_IN_WORDS[study.align], sentence(told_of_blindness(context))])),
        [
            PageTable(caption, per_filter, f"{untrained} {notes[0]}".strip()),
            PageTable("The most and the least alike filters of all", extreme, notes[1]),
        ],
        pictures,
    )


def _pairs(context: Context, tests: dict[str, PairSelection], selected: pd.DataFrame, chosen: pd.DataFrame) -> Part:
    study = context.study
    counts = np.stack([test.counts for test in tests.values()])
    said = [
        f"{row['measure']}: {row['most frequent pair']} ({number(row['share %'], '.1f')} %)"
        for _, row in chosen.iterrows()
    ]
    note = published.MOST_FREQUENT_PAIRS if context.published else ""
    return Part(
        "Which pairs are chosen",
        "The donors are the same in every repeat, and so are the pairs, but for what is drawn: how often they are "
        "chosen says nothing of chance."
        if context.own
        else "Chance is what comes out if donors are renamed at random within each repeat, which keeps what a donor's "
        "filters have in common.",
        [
            PageTable(f"The pair chosen most often{context.as_published(2)}", chosen, note),
            PageTable("How often each pair is chosen", selected),
        ],
        {
            "pair_counts.png": Shown(
                Drawing(figures.pair_counts, counts, study.measures, context.donors),
                "How often each pair of donors is chosen: an even spread is what chance alone would give",
                f"Most frequent pairs: {'; '.join(said)}.",
            )
        },
    )


def _layers(context: Context, s: SimilarityResult, table: pd.DataFrame) -> Part:
    study = context.study
    trained, fresh = (np.moveaxis(x, 0, 2) for x in (s.layer_scores, s.fresh_layer_scores))  # [measures, L, R, P]
    said = [
        f"{row['measure']} {row['layer']}: {number(row['mean'])} trained, {number(row['untrained mean'])} untrained"
        for _, row in table.iterrows()
    ]
    return Part(
        "How alike the donors' layers are",
        "\n".join(f"- {name}: {get_layer_measure(name).row}" for name in study.layer_measures),
        [PageTable("Similarity of layers over all pairs and repeats", table)],
        {
            "layer_similarity.png": Shown(
                Drawing(
                    figures.layer_similarity, trained, fresh, study.layer_measures, [name for name, _ in context.layers]
                ),
                f"Similarity of the donors' layers beside that of {_null(context)}: how far apart "
                "the two are, layer by layer",
                "; ".join(said),
            )
        },
    )
