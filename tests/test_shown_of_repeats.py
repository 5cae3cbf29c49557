"""What child runs and figures show of repeats, of made-up ones in which no two numbers are the same, against loops."""

import dataclasses

import numpy as np
import pytest
from small_study import DONORS, LAYER_MEASURES, LAYERS, MEASURES, STEPS, STUDY, VARIANTS, both_repeats, the_context

from cnnsim_tf.measures import MEASURES as MEASURES_KNOWN
from cnnsim_tf.noise import NOISES
from cnnsim_tf.pipeline import PIPELINE

POINTS, EPOCHS, R, V = np.array([3, 7, 9]), 2, 4, len(VARIANTS)
SHAPES = {
    "subset_training": {
        "test_accuracy": (DONORS, 1 + DONORS),
        "epoch_loss": (DONORS, EPOCHS),
        "epoch_accuracy": (DONORS, EPOCHS),
    },
    "similarity": {},  # as they are
    "warmstart": {
        **dict.fromkeys(("train_loss", "test_loss", "test_accuracy"), (V, len(POINTS))),
        "epoch_loss": (V, EPOCHS),
        "start_accuracy": (V,),
        "noise_accuracy": (V, DONORS),
        "activation_mean": (2, V, LAYERS),
        "activation_sd": (2, V, LAYERS),
        "gradient_norms": (V, 10, LAYERS),
    },
}


def varied(step, seed):
    """Return one result of a step with random numbers, of three points and two epochs."""
    rng, real = np.random.default_rng(seed), both_repeats()[0][seed % 2][step]
    changes = {name: rng.uniform(1, 99, shape) for name, shape in SHAPES[step].items()}
    for name in ("scores", "fresh_scores", "layer_scores", "fresh_layer_scores") if step == "similarity" else ():
        changes[name] = rng.uniform(-1, 1, getattr(real, name).shape).astype(np.float32)
    if step == "warmstart":
        changes |= {"points": POINTS, "dead": rng.integers(0, 1000, (2, V, LAYERS))}
    return dataclasses.replace(real, **changes)


@pytest.fixture(scope="module")
def results():
    noising = [both_repeats()[0][r % 2]["noising"] for r in range(R)]
    return {"noising": noising} | {step: [varied(step, seed) for seed in range(R)] for step in STEPS[1:]}


@pytest.fixture(scope="module")
def summary(results):
    made = {}

    def of(step):
        if step not in made:
            made[step] = PIPELINE[step].code.summarise(the_context(), results[step], results)
        return made[step]

    return of


def metrics_of(child):
    """Return a child's metrics, by name and step."""
    return {(name, step): value for name, value, step in child.metrics}


def mean(results, name, *at):
    return pytest.approx(sum(getattr(r, name)[at] for r in results) / len(results))


def test_every_donors_metrics_are_its_own(summary, results):
    donors = results["subset_training"]
    for d, child in enumerate(summary("subset_training").children.values()):
        metrics = metrics_of(child)
        for r, result in enumerate(donors, 1):
            assert metrics["accuracy/clean_per_repeat_pct", r] == result.test_accuracy[d, 0]
            assert metrics["accuracy/own_noise_per_repeat_pct", r] == result.test_accuracy[d, 1 + d]
        assert metrics["accuracy/clean_mean_pct", 0] == mean(donors, "test_accuracy", d, 0)
        assert metrics["accuracy/own_noise_mean_pct", 0] == mean(donors, "test_accuracy", d, 1 + d)
        for epoch in range(EPOCHS):
            assert metrics["curves/train_loss", epoch + 1] == mean(donors, "epoch_loss", d, epoch)
            assert metrics["curves/train_accuracy_pct", epoch + 1] == mean(donors, "epoch_accuracy", d, epoch)


def test_every_variants_metrics_are_its_own_at_the_end_of_training(summary, results):
    repeats, tables = results["warmstart"], summary("warmstart").tables
    table, kept = tables["variants"], tables["kept_similarity"]
    for v, child in enumerate(summary("warmstart").children.values()):
        metrics = metrics_of(child)
        for r, result in enumerate(repeats, 1):
            assert metrics["accuracy/per_repeat_pct", r] == result.test_accuracy[v, -1]
            assert metrics["final_loss/test_per_repeat", r] == result.test_loss[v, -1]
        assert metrics["accuracy/mean_pct", 0] == mean(repeats, "test_accuracy", v, -1)
        assert metrics["final_loss/train_mean", 0] == mean(repeats, "epoch_loss", v, -1)
        for d, noise in enumerate(STUDY.noises):
            assert metrics[f"accuracy/test_on_{noise}_pct", 0] == mean(repeats, "noise_accuracy", v, d)
        for p, point in enumerate(POINTS):
            for metric, name in (("test_accuracy_pct", "test_accuracy"), ("test_loss",) * 2, ("train_loss",) * 2):
                assert metrics[f"curves/{metric}", point] == mean(repeats, name, v, p)
        for when, which in enumerate(("start", "end")):
            dead = sum(r.dead[when, v, :3].sum() for r in repeats) / R  # of hidden layers
            assert metrics[f"inside/dead_units_at_{which}", 0] == pytest.approx(dead)
        row = table.loc[VARIANTS[v]]
        for metric, column in (
            ("difference/median", "median difference (points)"),
            ("difference/holm_p", "Holm p"),
            ("accuracy/range_min_pct", "accuracy min %"),
            ("accuracy/range_max_pct", "accuracy max %"),
        ):
            assert metrics.get((metric, 0)) == pytest.approx(row[column]) or (VARIANTS[v] == "random_init")
        for m, measure in enumerate(MEASURES):
            rows = kept[(kept["variant"] == VARIANTS[v]) & (kept["filter"] == "all filters")]
            assert metrics[f"inside/kept_{measure}", 0] == pytest.approx(rows["mean"].iloc[m])
        for step in range(10):
            norm = sum(np.linalg.norm(r.gradient_norms[v, step]) for r in repeats) / R
            assert metrics["inside/gradient_norm", step + 1] == pytest.approx(norm)


def test_the_ui_shows_accuracy_first_then_curves_and_what_is_inside_networks_last_in_at_most_40_charts(summary):
    for step in ("subset_training", "warmstart"):
        for child in summary(step).children.values():
            groups = sorted({name.partition("/")[0] for name, _, _ in child.metrics})
            assert groups[:2] == ["accuracy", "curves"]
            assert groups[2:] in (
                [],
                ["final_loss", "inside"],
                ["difference", "final_loss", "inside"],
            )  # random_init has none
            # of a study with all measures and noises, which this one has not
            more = len([*MEASURES_KNOWN]) - len(MEASURES) + len([*NOISES]) - DONORS
            assert len({name for name, _, _ in child.metrics}) + more <= 40


def test_figures_of_variants_are_given_their_numbers(summary, results):
    repeats, figures = results["warmstart"], summary("warmstart").figures
    final, dead, names = figures["collapses.png"].make.args
    np.testing.assert_array_equal(final, np.transpose([r.test_accuracy[:, -1] for r in repeats]))
    np.testing.assert_array_equal(dead, np.transpose([r.dead[0, :, :3].sum(1) for r in repeats]))  # of hidden layers
    assert names == VARIANTS
    np.testing.assert_allclose(
        figures["gradient_norms.png"].make.args[0], np.mean([r.gradient_norms for r in repeats], 0)
    )
    curves, points, _ = figures["learning_curves.png"].make.args
    np.testing.assert_array_equal(curves, np.stack([r.test_accuracy for r in repeats], 1))
    np.testing.assert_array_equal(points, POINTS)


def test_figures_of_similarity_are_given_the_scores_of_trained_and_of_untrained_donors(summary, results):
    repeats, figures = results["similarity"], summary("similarity").figures
    for m, measure in enumerate(MEASURES):
        trained, fresh = (np.stack([getattr(r, name)[m] for r in repeats], 1) for name in ("scores", "fresh_scores"))
        for given, expected in zip(figures[f"null_{measure}.png"].make.args[:2], (trained, fresh), strict=True):
            np.testing.assert_array_equal(given, expected)  # [F, R, P]
        np.testing.assert_array_equal(figures[f"score_{measure}.png"].make.args[0], trained.swapaxes(0, 1))
    given = figures["layer_similarity.png"].make.args
    for array, name in zip(given[:2], ("layer_scores", "fresh_layer_scores"), strict=True):
        np.testing.assert_array_equal(array, np.stack([getattr(r, name) for r in repeats], 2))  # [measures, L, R, P]
    assert given[2] == LAYER_MEASURES
