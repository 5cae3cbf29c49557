"""The warm start's sections of the report page, each with its tables and figures."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cnnsim_tf import figures
from cnnsim_tf.report import published
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import file_name, number, sentence
from cnnsim_tf.report.page import PageTable, Part, Shown
from cnnsim_tf.schemes import get_scheme, variants_of
from cnnsim_tf.statistics import COLLAPSED_BELOW, mean_interval, reach_curve
from cnnsim_tf.steps.kept import column
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart import shown
from cnnsim_tf.steps.warmstart.repeat import WarmstartResult, unsettled
from cnnsim_tf.steps.warmstart.stacked import THRESHOLDS, Stacked
from cnnsim_tf.steps.warmstart.words import (
    curves_in_words,
    differences_in_words,
    means_in_words,
    reach_caption,
    reach_in_words,
    speed_in_words,
)
from cnnsim_tf.study import BASELINE

LONGEST_TABLE = 60  # rows; what is longer is read in its .csv


def sections(
    context: Context,
    results: Sequence[WarmstartResult],
    s: Stacked,
    tables: Mapping[str, pd.DataFrame],
    kept: np.ndarray,
) -> list[Part]:
    """Return the step's sections of the report page.

    Args:
        context: of the study.
        results: of all repeats.
        s: the same, side by side.
        tables: the step's tables by name.
        kept: [measures, V, R, F] similarity of filters before and after target training.
    """
    return [
        _accuracy(context, s, tables["variants"], tables["controls"]),
        _variants(context),
        _speed(context, s, tables["speed"]),
        _noises(context, s, tables),
        _collapses(context, results, s, tables),
        _kept(context, s, kept),
    ]


def _accuracy(context: Context, s: Stacked, table: pd.DataFrame, controls: pd.DataFrame) -> Part:
    study = context.study
    others = table.drop(index=BASELINE) if BASELINE in table.index else table[:0]
    note = (
        f"Differences to {BASELINE} are taken repeat by repeat, in percentage points. The 95 % CI is the BCa bootstrap "
        "interval of their mean; p is that of a sign-flip test, adjusted by Holm's method for the number of variants. "
        f"Repeats that end under {COLLAPSED_BELOW:g} % have collapsed."
    )
    if not context.own:
        note += " What the donors' training costs is told in the section on speed."
    tables = [
        PageTable(
            f"Test accuracy after target training{context.as_published(3)}",
            shown.variants(table, s.repeats),
            note if len(others) else "",
        )
    ]
    if len(controls):
        note = (
            "Each of these variants is compared with the one that does the same with donors drawn at random instead of "
            "by its measure. p is adjusted by Holm's method for the number of these comparisons."
        )
        if context.own:
            note += " The donors are the same in every repeat, so that this is about a single choice."
        tables.append(PageTable("Does choosing by similarity matter?", shown.controls(controls), note))
    if context.published and len(beside := shown.beside_published(table)):
        level = f"This study is at level {study.level:g}. " if study.level != published.LEVEL else ""
        tables.append(PageTable("Accuracy beside the published one", beside, level + " ".join(published.CAVEATS)))
    # Of two variants' own intervals an overlap tells little: repeats are paired.
    interval = (
        ". Intervals: Student's t, 95 %, of each variant's own mean; whether two variants differ is told by the paired "
        "differences, not by these"
    )
    pictures = {
        "accuracy_by_variant.png": Shown(
            Drawing(figures.accuracy_by_variant, s.final, *mean_interval(s.final), s.names),
            "Final test accuracy of every repeat: compare the clouds, not only the means, since a few collapsed "
            f"networks pull a mean far down{interval if s.repeats > 1 else ''}",
            means_in_words(table),
        )
    }
    if len(others) and s.repeats > 1:
        pictures["differences.png"] = Shown(
            Drawing(
                figures.difference_forest,
                others["difference (points)"].to_numpy(),
                others["CI low"].to_numpy(),
                others["CI high"].to_numpy(),
                list(others["verdict"]),
                list(others.index),
                collapsed=others["collapsed"].to_numpy(),
                repeats=s.repeats,
            ),
            f"Mean paired difference to {BASELINE} with its 95 % interval. An interval that leaves zero out is not "
            "enough: filled markers are distinguishable after correction for the number of variants"
            if np.isfinite(others["CI low"]).any()
            else f"Mean paired difference to {BASELINE}. There are too few repeats for intervals",
            differences_in_words(table),
        )
    return Part("Accuracy", sentence(unsettled(context)), tables, pictures)


def _variants(context: Context) -> Part:
    rows = [
        {
            "variant": v.name,
            "measure": v.measure or "–",
            "scheme": v.scheme,
            "initial weights": get_scheme(v.scheme).summary,
        }
        for v in variants_of(context.study)
    ]
    filters = sum(math.prod(kernel.shape) for kernel in context.kernels)
    weights = sum(math.prod(shape) for shape in context.weight_shapes.values())
    text = f"The network has {weights:,} weights, of which {filters:,} are the filters of its Conv2D layers."
    return Part("What the variants start from", text, [PageTable("The variants", pd.DataFrame(rows))])


def _speed(context: Context, s: Stacked, table: pd.DataFrame) -> Part:
    counted = (
        "with donors, the training of those that the variant takes something from is added"
        if not context.own
        else "what the donors' training took is not known and not counted"
    )
    note = (
        "Batches are medians over repeats (Kaplan and Meier; a repeat that never got there counts as longer), and in "
        "brackets stands how many repeats got there. A dash says that fewer than half of them did. Image passes are "
        f"batches times the batch size; {counted}. Times are no finer than the points at which accuracy is taken, most "
        "often a hundred batches apart. p is that of a paired sign-flip test of batches, adjusted by Holm's method. "
        "Intervals are in tables/speed.csv."
    )
    curves = [[reach_curve(of[t].steps, of[t].reached) for of in s.times] for t in range(len(THRESHOLDS))]
    return Part(
        "Speed, and what it costs in image passes",
        speed_in_words(table, context.own is None),
        [PageTable("Batches and image passes to reach an accuracy", shown.speed(table, context.own is None), note)],
        {
            "learning_curves.png": Shown(
                Drawing(figures.learning_curves, s.accuracy, s.points, s.names),
                "Test accuracy along target training: who is ahead early on (left; batches are on a log scale), and "
                "who at the end",
                curves_in_words(s),
            ),
            "steps_to_reach.png": Shown(
                Drawing(figures.steps_to_reach, curves, THRESHOLDS, s.names),
                reach_caption(table),
                reach_in_words(table),
            ),
        },
    )


def _noises(context: Context, s: Stacked, tables: Mapping[str, pd.DataFrame]) -> Part:
    study = context.study
    seen = "No variant saw them in target training." if study.target == "clean" else f"Target data: {study.target}."
    means = np.column_stack([s.final.mean(1), s.noisy.mean(1)])
    return Part(
        "On noisy test data",
        f"The test set with each of the noises. {seen}",
        [PageTable("Test accuracy in percent, mean ± sd over repeats", shown.noises(tables["noise_accuracy"]))],
        {
            "noise_test_accuracy.png": Shown(
                Drawing(figures.noise_test_accuracy, means, s.names, study.noises),
                "Accuracy on the clean and on every noised test set: look for rows whose differences have another "
                "sign than on clean data",
                f"{means_in_words(tables['variants'])} The table above has its numbers.",
            )
        },
    )


def _collapses(
    context: Context, results: Sequence[WarmstartResult], s: Stacked, tables: Mapping[str, pd.DataFrame]
) -> Part:
    table = tables["collapses"]
    said = [
        f"{row['variant']}: {row['count']} collapsed, {number(row['dead at start'], '.1f')} dead at the start and "
        f"{number(row['dead at end'], '.1f')} at the end"
        for _, row in table[table["which repeats"] == "collapsed"].iterrows()
    ]
    text = (
        f"A repeat whose final accuracy is under {COLLAPSED_BELOW:g} % has collapsed. A unit of a hidden layer is dead "
        f"if it gives 0 for every one of {len(context.probe_images)} clean test images. The last hidden layer's "
        "output, whose standard deviation is given, is all that the logits see."
    )
    inside = [PageTable("Inside the networks, means over repeats", tables["inside"])]
    dead = column(results, "dead")[:, 0, :, :-1].sum(-1).T
    norms = column(results, "gradient_norms").mean(0)
    return Part(
        "Collapses",
        text if said else f"{text}\n\nNo repeat collapsed.",
        [
            PageTable("Collapsed repeats beside the others, means", table),
            *(inside if len(tables["inside"]) <= LONGEST_TABLE else []),
        ],
        {
            "collapses.png": Shown(
                Drawing(figures.collapse_diagnosis, s.final, dead, s.names),
                "Final accuracy against dead units at the start: whether networks that collapse begin with dead units",
                "; ".join(said) or "No repeat collapsed.",
            ),
            "gradient_norms.png": Shown(
                Drawing(figures.gradient_norms, norms, s.names, [name for name, _ in context.layers]),
                "Norms of the gradients at the first steps: how far from random_init's they begin; far larger ones "
                "push units out of reach, and a layer without any does not learn",
                "The table above has the norms at the first and at the last of these steps.",
            ),
        },
    )


def _kept(context: Context, s: Stacked, kept: np.ndarray) -> Part:
    study, table = context.study, shown.kept(context, kept)
    tables = [PageTable(f"Similarity of filters before and after target training{context.as_published(4)}", table)]
    rows = [
        {
            "variant": row["variant"],
            "this study": row["pearson"],
            "published": number(published.KEPT[row["variant"]], ".3f"),
        }
        for _, row in table.iterrows()
        if context.published and "pearson" in table and row["variant"] in published.KEPT
    ]
    if rows:
        caption = "|Pearson| before and after target training, beside the published one"
        tables.append(PageTable(caption, pd.DataFrame(rows), published.KEPT_CAVEAT))
    pictures = {
        f"kept_{file_name(measure)}.png": Shown(
            Drawing(figures.kept_similarity, kept[m], s.names, context.shown_groups, measure),
            f"Similarity of filters before and after training by {measure}: how much of them training changes; large "
            "filters change less for their size, whatever is in them",
            "; ".join(f"{row['variant']}: {row[measure]}" for _, row in table.iterrows()),
        )
        for m, measure in enumerate(study.measures)
    }
    return Part("What is kept of the start", "", tables, pictures)
