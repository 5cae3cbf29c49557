"""The warm start's figures and its sections of the report page."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from cnnsim_tf import figures
from cnnsim_tf.report import published
from cnnsim_tf.report.formats import file_name, number
from cnnsim_tf.report.page import PageTable
from cnnsim_tf.schemes import get_scheme
from cnnsim_tf.statistics import COLLAPSED_BELOW, mean_interval, reach_curve, steps_to_reach
from cnnsim_tf.steps.step import Context, Part, Table
from cnnsim_tf.steps.warmstart.compute import WarmstartResult, variants_of
from cnnsim_tf.steps.warmstart.tables import THRESHOLDS, kept_short_table, shown_noise_table, shown_speed_table
from cnnsim_tf.steps.warmstart.words import (
    curves_in_words,
    differences_in_words,
    means_in_words,
    reach_caption,
    speed_alternative,
    speed_in_words,
)
from cnnsim_tf.study import BASELINE

LONGEST_TABLE = 60  # rows; what is longer is read in its .csv


def pictures_of(
    context: Context,
    results: Sequence[WarmstartResult],
    accuracy: np.ndarray,
    start: np.ndarray,
    kept: np.ndarray,
    table: Table,
) -> dict[str, Figure]:
    """Return the step's figures by file name.

    Args:
        context: of the study.
        results: of all repeats.
        accuracy: [V, R, P] in percent.
        start: [V, R] before training.
        kept: [measures, V, R, F] similarity of filters before and after target training.
        table: of the variants.
    """
    study, names, points = context.study, context.study.variants, results[0].points
    layers = [name for name, _ in context.layers]
    dead = np.stack([r.dead[0, :, :-1].sum(-1) for r in results], 1)
    reach = [[steps_to_reach(points, a, t, s) for a, s in zip(accuracy, start, strict=True)] for t in THRESHOLDS]
    curves = [[reach_curve(x.steps, x.reached) for x in row] for row in reach]
    final = accuracy[:, :, -1]
    noisy = np.mean([r.noise_accuracy for r in results], axis=0)
    pictures = {
        "accuracy_by_variant.png": figures.accuracy_by_variant(final, *mean_interval(final), names),
        "learning_curves.png": figures.learning_curves(accuracy, points, names),
        "steps_to_reach.png": figures.steps_to_reach(curves, THRESHOLDS, names),
        "noise_test_accuracy.png": figures.noise_test_accuracy(
            np.column_stack([accuracy[:, :, -1].mean(1), noisy]), names, study.noises
        ),
        "collapses.png": figures.collapse_diagnosis(accuracy[:, :, -1], dead, names),
        "gradient_norms.png": figures.gradient_norms(
            np.mean([r.gradient_norms for r in results], axis=0), names, layers
        ),
    }
    rows = [v for v in range(len(names)) if table["difference (points)"][v] is not None]
    if rows and len(results) > 1:
        of = {
            c: [table[c][v] for v in rows] for c in ("difference (points)", "CI low", "CI high", "verdict", "collapsed")
        }
        mean, low, high = (np.array(of[c], float) for c in ("difference (points)", "CI low", "CI high"))
        pictures["differences.png"] = figures.difference_forest(
            mean,
            low,
            high,
            of["verdict"],
            [names[v] for v in rows],
            collapsed=np.array(of["collapsed"]),
            repeats=len(results),
        )
    for m, measure in enumerate(study.measures):
        picture = figures.kept_similarity(kept[m], names, context.filter_names, measure)
        pictures[f"kept_{file_name(measure)}.png"] = picture
    return pictures


def parts_of(
    context: Context,
    tables: Mapping[str, Table],
    shown: Table,
    kept: np.ndarray,
    accuracy: np.ndarray,
    points: np.ndarray,
) -> list[Part]:
    """Return the step's sections of the report page.

    Args:
        context: of the study.
        tables: the step's tables by name.
        shown: the table of the variants as people read it.
        kept: [measures, V, R, F] similarity of filters before and after target training.
        accuracy: [V, R, P] in percent.
        points: [P] batches after which it was taken.
    """
    study, table = context.study, tables["variants"]
    return [
        _accuracy_part(context, table, shown),
        _variants_part(context),
        _speed_part(context, tables["speed"], accuracy, points),
        Part(
            "On noisy test data",
            "The test set with each of the noises. "
            + (
                "No variant saw them in target training."
                if study.target == "clean"
                else f"Target data: {study.target}."
            ),
            [
                PageTable(
                    "Test accuracy in percent, mean ± sd over repeats", shown_noise_table(tables["noise_accuracy"])
                )
            ],
            {
                "noise_test_accuracy.png": (
                    "Accuracy on the clean and on every noised test set: look for rows whose differences have another "
                    "sign than on clean data",
                    means_in_words(table, "The table above has its numbers."),
                )
            },
        ),
        _collapse_part(context, tables),
        _kept_part(context, kept),
    ]


def _accuracy_part(context: Context, table: Table, shown: Table) -> Part:
    study = context.study
    compared = any(d is not None for d in table["difference (points)"])
    note = (
        f"Differences are paired, in percentage points. 95 % CI: BCa bootstrap of the mean difference. p: "
        f"sign-flip test, Holm-adjusted over the variants. Under {COLLAPSED_BELOW:g} %: repeats that collapsed. The "
        "training of donors is not counted here (see Speed). "
    )
    published_table = _published(table) if context.published else {}
    tables = [
        PageTable(
            "Test accuracy after target training (the published report's table 3)", shown, note if compared else ""
        )
    ]
    if published_table:
        level = f"Ours are at level {study.level:g}. " if study.level != published.LEVEL else ""
        tables.append(
            PageTable("Accuracy beside the published one", published_table, level + " ".join(published.CAVEATS))
        )
    # Of two variants' own intervals an overlap tells little: repeats are paired.
    interval = (
        ". Intervals: Student's t, 95 %, of each variant's own mean; whether two variants differ is told by the paired "
        "differences, not by these"
        if study.repeats > 1
        else ""
    )
    pictures = {
        "accuracy_by_variant.png": (
            "Final test accuracy of every repeat: compare the clouds, not only the means, since a few collapsed "
            f"networks pull a mean far down{interval}",
            means_in_words(table, ""),
        )
    }
    if compared and study.repeats > 1:
        pictures["differences.png"] = (
            f"Mean paired difference to {BASELINE} with its 95 % interval. An interval that leaves zero out is not "
            "enough: filled markers are distinguishable after correction for the number of variants"
            if any(low is not None and np.isfinite(low) for low in table["CI low"])
            else f"Mean paired difference to {BASELINE}. There are too few repeats for intervals",
            differences_in_words(table),
        )
    return Part("Accuracy", "", tables, pictures)


def _variants_part(context: Context) -> Part:
    columns: dict[str, list] = {"variant": [], "measure": [], "scheme": [], "initial weights": []}
    for v in variants_of(context.study):
        row = v.name, v.measure or "–", v.scheme, get_scheme(v.scheme).summary
        for column, value in zip(columns, row, strict=True):
            columns[column].append(value)
    return Part("What the variants start from", "", [PageTable("The variants", columns)])


def _speed_part(context: Context, table: Table, accuracy: np.ndarray, points: np.ndarray) -> Part:
    repeats = context.study.repeats
    note = (
        "Median batches (Kaplan and Meier, repeats that never got there count as longer), in brackets how many did; "
        "image passes: batches times batch size; with donors: plus the training of the donors that the variant needs. "
        "A dash: fewer than half of the repeats got there. Accuracy is taken every hundred batches or so, and times "
        "are no finer. p: paired sign-flip test of batches, Holm-adjusted. tables/speed.csv has intervals."
    )
    return Part(
        "Speed, and what it costs in image passes",
        speed_in_words(context, table),
        [PageTable("Batches and image passes to reach an accuracy", shown_speed_table(table, repeats), note)],
        {
            "learning_curves.png": (
                "Test accuracy along target training: who is ahead early on (left; batches are on a log scale), and "
                "who at the end",
                curves_in_words(context.study.variants, accuracy, points),
            ),
            "steps_to_reach.png": (
                reach_caption(table),
                speed_alternative(table, repeats),
            ),
        },
    )


def _collapse_part(context: Context, tables: Mapping[str, Table]) -> Part:
    table = tables["collapses"]
    rows = [i for i, which in enumerate(table["which repeats"]) if which == "collapsed"]
    text = (
        f"A repeat whose final accuracy is under {COLLAPSED_BELOW:g} % has collapsed. Dead units (of all hidden "
        f"layers) give 0 for every one of {len(context.probe_images)} clean test images. The sd is that of the last "
        "hidden layer's output, all "
        "that the logits see."
    )
    said = "; ".join(
        f"{table['variant'][i]}: {table['count'][i]} collapsed, {number(table['dead at start'][i], '.1f')} dead at the "
        f"start and {number(table['dead at end'][i], '.1f')} at the end"
        for i in rows
    )
    return Part(
        "Collapses",
        text if rows else f"{text}\n\nNo repeat collapsed.",
        [
            PageTable("Collapsed repeats beside the others, means", table),
            *_inside(tables["inside"]),
        ],
        {
            "collapses.png": (
                "Final accuracy against dead units at the start: whether networks that collapse begin with dead units",
                said or "No repeat collapsed.",
            ),
            "gradient_norms.png": (
                "Norms of the gradients at the first steps: how far from random_init's they begin; far larger ones "
                "push units out of reach, and a layer without any does not learn",
                "The table above has the norms at the first and at the last of these steps.",
            ),
        },
    )


def _inside(table: Table) -> list[PageTable]:
    """Return the table of what the networks look like inside, unless it is too long to be read."""
    if len(table["variant"]) > LONGEST_TABLE:
        return []
    return [PageTable("Inside the networks, means over repeats", table)]


def _kept_part(context: Context, kept: np.ndarray) -> Part:
    study, shown = context.study, kept_short_table(context, kept)
    tables = [
        PageTable("Similarity of filters before and after target training (the published report's table 4)", shown)
    ]
    if context.published and "pearson" in study.measures and set(study.variants) & set(published.KEPT):
        ours = dict(zip(shown["variant"], shown["pearson"], strict=True))
        both = {name: value for name, value in published.KEPT.items() if name in ours}
        beside = {
            "variant": list(both),
            "ours": [ours[n] for n in both],
            "published": [f"{x:.3f}" for x in both.values()],
        }
        tables.append(
            PageTable(
                "|Pearson| before and after target training, beside the published one", beside, published.CAVEATS[-1]
            )
        )
    pictures = {
        f"kept_{file_name(measure)}.png": (
            f"Similarity of each filter before and after training by {measure}: how much of it training changes; large "
            "filters change less for their size, whatever is in them",
            "; ".join(f"{v}: {x}" for v, x in zip(shown["variant"], shown[measure], strict=True)),
        )
        for measure in study.measures
    }
    return Part("What is kept of the start", "", tables, pictures)


def _published(table: Table) -> Table:
    """Return accuracies beside the published ones; nothing where no variant is among these."""
    rows = [i for i, name in enumerate(table["variant"]) if name in published.ACCURACY]
    columns = {"variant": [table["variant"][i] for i in rows]}
    for title, column in (("mean", "accuracy mean %"), ("sd", "accuracy sd"), ("max", "accuracy max %")):
        columns[f"{title}, ours"] = [number(table[column][i]) for i in rows]
        columns[f"{title}, published"] = [number(getattr(published.ACCURACY[table["variant"][i]], title)) for i in rows]
    return columns if rows else {}
