"""Every column of the warm start's tables against loops and scipy, on made-up accuracies."""

import dataclasses
import math
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_study import (
    DONORS,
    LAYERS,
    MEASURES,
    STUDY,
    TRAIN,
    VARIANTS,
    both_repeats,
    filters_of,
    network,
    rows_of,
    summary_of,
    the_context,
    with_study,
)

from cnnsim_tf.measures import filter_scores
from cnnsim_tf.schemes import SCHEMES, get_scheme
from cnnsim_tf.steps.warmstart import shown
from cnnsim_tf.steps.warmstart.repeat import WarmstartResult
from cnnsim_tf.steps.warmstart.stacked import Stacked, stacked
from cnnsim_tf.steps.warmstart.tables import (
    collapse_table,
    controls_table,
    inside_table,
    kept_similarity,
    noise_table,
    pairs_table,
    per_repeat_table,
    speed_table,
    variant_table,
)
from cnnsim_tf.steps.warmstart.words import speed_in_words

R, NAMES = 9, ("cosine", "random_init", "random_donor")
RNG = np.random.default_rng(3)
ACCURACY = np.round(RNG.normal([[93.0], [94.0], [94.5]], 0.8, (3, R)), 2)
ACCURACY[0, 4] = 11.35  # a collapse
ACCURACY[2, 3] = ACCURACY[1, 3]  # a tie
LOSS = RNG.uniform(0.2, 0.6, (3, R))
OVER = ACCURACY - RNG.uniform(1, 9, (3, R))


def side_by_side(names, accuracy, points=(9,), start=None, noisy=None):
    """Return results side by side from accuracies [V, R, P] and what else a table needs."""
    none = np.zeros(accuracy.shape[:2])
    start, noisy = (none if start is None else start), (none[..., None] if noisy is None else noisy)
    return Stacked(tuple(names), accuracy, start, noisy, none, np.asarray(points))


def sign_flip_p(differences):
    """Return the share of all patterns of signs with a mean as far from 0."""
    found = abs(np.sum(differences))
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=len(differences))]
    return np.mean([s >= found - 1e-7 for s in sums])


def bca(differences):
    interval = stats.bootstrap(
        (differences,), np.mean, n_resamples=9_999, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return interval.low, interval.high


def holm_of(p_values):
    order, adjusted, largest = np.argsort(p_values), np.zeros(len(p_values)), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def check_difference(row, d, adjusted):
    """Compare the columns of a paired difference with scipy."""
    t = stats.ttest_1samp(d, 0)
    assert row["difference (points)"] == pytest.approx(d.mean())
    assert row["median difference (points)"] == pytest.approx(np.median(d))
    assert (row["CI low"], row["CI high"]) == pytest.approx(bca(d))
    assert (row["t CI low"], row["t CI high"]) == pytest.approx(tuple(t.confidence_interval()))
    assert row["t test p"] == pytest.approx(t.pvalue)
    assert row["Wilcoxon p"] == pytest.approx(stats.wilcoxon(d).pvalue)
    assert row["sign-flip p"] == pytest.approx(sign_flip_p(d))
    assert row["Holm p"] == pytest.approx(adjusted)
    above, below, equal = ((d > 0).sum(), (d < 0).sum(), (d == 0).sum())
    assert (row["above"], row["below"], row["equal"]) == (above, below, equal)
    assert row["superiority"] == pytest.approx((above + equal / 2) / len(d))
    word = "not distinguishable" if adjusted >= 0.05 else "higher" if d.mean() > 0 else "lower"
    assert row["verdict"] == word


def differences(i, j, of=ACCURACY):
    return np.round(of[i] - of[j], 9)


def signed(value):
    return f"{value:+.2f}".replace("-", "−")


@pytest.fixture(scope="module")
def table():
    return variant_table(NAMES, ACCURACY, LOSS, OVER)


# --- final accuracies ------------------------------------------------------------------------------------------------


def test_every_column_of_the_table_of_variants_is_that_of_loops_and_scipy(table):
    rows = rows_of(table)
    assert tuple(table.index) == NAMES
    compared = {0: differences(0, 1), 2: differences(2, 1)}
    adjusted = dict(zip(compared, holm_of([sign_flip_p(d) for d in compared.values()]), strict=True))
    over = holm_of([sign_flip_p(differences(v, 1, OVER)) for v in compared])
    over_adjusted = dict(zip(compared, over, strict=True))
    for v, row in enumerate(rows):
        a, b = ACCURACY[v], LOSS[v]
        assert row["variant"] == NAMES[v]
        of_accuracy = [row[f"accuracy {k}"] for k in ("mean %", "sd", "median %", "min %", "max %")]
        assert of_accuracy == pytest.approx([a.mean(), a.std(ddof=1), np.median(a), a.min(), a.max()])
        of_loss = [row[f"train loss {k}"] for k in ("mean", "sd", "min", "max")]
        assert of_loss == pytest.approx([b.mean(), b.std(ddof=1), b.min(), b.max()])
        wilson = stats.binomtest(int((a < 50).sum()), R).proportion_ci(method="wilson")
        assert row["collapsed"] == (1 if v == 0 else 0)
        assert (row["collapsed share CI low"], row["collapsed share CI high"]) == pytest.approx(tuple(wilson))
        assert row["accuracy over training %"] == pytest.approx(OVER[v].mean())
        if v == 1:
            compared_columns = list(row)[list(row).index("difference (points)") :]
            assert len(compared_columns) == 15 + 4 + 5 and all(pd.isna(row[c]) for c in compared_columns)
            continue
        check_difference(row, compared[v], adjusted[v])
        assert row["over training Holm p"] == pytest.approx(over_adjusted[v])
        for title, of, short in (
            ("difference over training", OVER, "over training"),
            ("train loss difference", LOSS, ""),
        ):
            d = differences(v, 1, of)
            short = short or "train loss"
            assert row[title] == pytest.approx(d.mean())
            assert (row[f"{short} CI low"], row[f"{short} CI high"]) == pytest.approx(bca(d))
            assert row[f"{short} sign-flip p"] == pytest.approx(sign_flip_p(d))


def test_without_random_init_there_are_no_differences_in_the_table():
    table = variant_table(("cosine", "random_donor"), ACCURACY[:2], LOSS[:2], OVER[:2])
    assert list(table.index) == list(table["variant"]) == ["cosine", "random_donor"]
    assert table.loc[:, "difference (points)":].isna().all(axis=None)
    assert table.loc[:, :"train loss max"].notna().all(axis=None)


def test_variants_are_compared_with_their_controls_with_a_correction_for_these_pairs():
    given = {NAMES[0]: NAMES[2], NAMES[1]: NAMES[0], NAMES[2]: "not here"}
    rows = rows_of(controls_table(NAMES, ACCURACY, given))
    assert [(r["variant"], r["control"]) for r in rows] == [(NAMES[0], NAMES[2]), (NAMES[1], NAMES[0])]
    adjusted = holm_of([sign_flip_p(differences(*pair)) for pair in ((0, 2), (1, 0))])
    for row, pair, p in zip(rows, ((0, 2), (1, 0)), adjusted, strict=True):
        check_difference(row, differences(*pair), p)
    assert controls_table(NAMES, ACCURACY, {NAMES[0]: "not here"}).empty


def test_any_two_variants_are_compared_with_a_correction_for_all_pairs():
    rows = rows_of(pairs_table(NAMES, ACCURACY))
    pairs = list(combinations(range(3), 2))
    assert [(r["variant"], r["compared with"]) for r in rows] == [(NAMES[i], NAMES[j]) for i, j in pairs]
    adjusted = holm_of([sign_flip_p(differences(i, j)) for i, j in pairs])
    for row, (i, j), p in zip(rows, pairs, adjusted, strict=True):
        check_difference(row, differences(i, j), p)


def test_accuracy_over_training_is_the_area_under_the_curve_from_batch_0():
    s = side_by_side(["cosine"], np.array([[[50.0, 90.0]]]), [10, 40], np.array([[10.0]]))
    area = 10 * (10 + 50) / 2 + 30 * (50 + 90) / 2
    np.testing.assert_allclose(s.over_training, [[area / 40]])
    assert (s.final.tolist(), s.repeats) == ([[90.0]], 1)


def test_results_of_all_repeats_stand_side_by_side():
    results = [r["warmstart"] for r in both_repeats()[0]]
    s = stacked(the_context(), results)
    assert s.names == VARIANTS and s.points is results[0].points
    for v in range(len(VARIANTS)):
        for r, result in enumerate(results):
            assert s.accuracy[v, r].tolist() == result.test_accuracy[v].tolist()
            assert (s.start[v, r], s.loss[v, r]) == (result.start_accuracy[v], result.epoch_loss[v, -1])
            assert s.noisy[v, r].tolist() == result.noise_accuracy[v].tolist()


def test_final_accuracies_stand_in_a_row_per_repeat():
    table = per_repeat_table(side_by_side(NAMES, np.stack([ACCURACY * 0, ACCURACY], -1), [1, 2]))
    assert list(table) == ["repeat", *NAMES] and list(table["repeat"]) == list(range(1, R + 1))
    assert table[list(NAMES)].T.to_numpy().tolist() == ACCURACY.tolist()


def test_the_shown_table_has_signs_collapses_and_p_values(table):
    rows = rows_of(shown.variants(table, R))
    a, d = ACCURACY[2], differences(2, 1)
    assert rows[2]["accuracy %, mean ± sd"] == f"{a.mean():.2f} ± {a.std(ddof=1):.2f}"
    assert (rows[2]["median"], rows[2]["min"], rows[2]["max"]) == tuple(
        f"{x:.2f}" for x in (np.median(a), a.min(), a.max())
    )
    assert rows[2]["difference to random_init"] == signed(d.mean())
    assert rows[2]["95 % CI"] == " to ".join(map(signed, bca(d)))
    adjusted = holm_of([sign_flip_p(differences(v, 1)) for v in (0, 2)])
    assert len({*adjusted, *(sign_flip_p(differences(v, 1)) for v in (0, 2))}) > 2  # the adjustment is seen
    assert [rows[v]["p (Holm)"] for v in (0, 2)] == [f"{p:.3f}" for p in adjusted]
    assert [row["under 50 %"] for row in rows] == ["1 of 9", "0 of 9", "0 of 9"]
    assert (rows[1]["difference to random_init"], rows[1]["95 % CI"], rows[1]["p (Holm)"]) == ("", "", "")
    assert list(rows[0]) == list(shown.variants(table.drop(index="random_init"), R))  # the same without differences


def test_the_steps_table_of_variants_follows_from_the_final_accuracies_and_losses():
    repeats, _ = both_repeats()
    table = summary_of("warmstart").tables["variants"]
    accuracy = np.array([r["warmstart"].test_accuracy[:, -1] for r in repeats]).T
    loss = np.array([r["warmstart"].epoch_loss[:, -1] for r in repeats]).T
    start = np.array([r["warmstart"].start_accuracy for r in repeats]).T
    assert list(table["variant"]) == list(VARIANTS)
    np.testing.assert_allclose(table["accuracy mean %"], accuracy.mean(1))
    np.testing.assert_allclose(table["train loss max"], loss.max(1))
    np.testing.assert_allclose(table["accuracy over training %"], ((start + accuracy) / 2).mean(1))  # a single point


# --- speed -----------------------------------------------------------------------------------------------------------

POINTS = np.array([2, 5, 19])
STUDIED = dataclasses.replace(STUDY, variants=("cosine", "random_init", "full_donor", "random_donor"))


def curves(*first_at_90):
    """Return accuracies [R, P] of repeats that are first at 90 % at these points (None: never) and never at 92 %."""
    return np.array([[91.0 if at is not None and p >= at else 85.0 for p in POINTS] for at in first_at_90])


SPEED = np.stack(
    [
        curves(2, 2, 2, 2, 2, 5, 5, 19, None),
        curves(2, 5, 19, 19, 19, 19, 19, 19, None),
        curves(2, 2, 2, 5, 5, 5, 19, 19, 19),
        curves(19, 19, 19, None, None, None, None, None, None),
    ]
)


def speed_rows(accuracy=SPEED, names=STUDIED.variants):
    start = np.full(accuracy.shape[:2], 10.0)
    table = speed_table(with_study(variants=names), side_by_side(names, accuracy, POINTS, start))
    return {(row["variant"], row["threshold %"]): row for row in rows_of(table)}, table


def test_batches_and_passes_to_reach_an_accuracy_with_repeats_that_never_do():
    rows, _ = speed_rows()
    assert list(rows) == [(v, t) for v in STUDIED.variants for t in (80, 90, 92)]
    reached = {"cosine": 8, "random_init": 8, "full_donor": 9, "random_donor": 3}
    medians = {"cosine": 2, "random_init": 19, "full_donor": 5, "random_donor": math.nan}
    passes = {2: 64, 19: TRAIN, 5: 160}  # 32 images per batch; the 19th has what is left
    donors = {"cosine": 6, "random_init": 0, "full_donor": 1, "random_donor": 6}
    for name, median in medians.items():
        row = rows[name, 90]
        assert (row["reached"], row["repeats"], row["donors"]) == (reached[name], 9, donors[name])
        assert row["median batches"] == pytest.approx(median, nan_ok=True)
        assert row["image passes"] == pytest.approx(passes.get(median, math.nan), nan_ok=True)
        with_donors = row["image passes"] + donors[name] * TRAIN / 6
        assert row["image passes with donors"] == pytest.approx(with_donors, nan_ok=True)
        assert rows[name, 92]["reached"] == 0 and math.isnan(rows[name, 92]["image passes"])
        assert (rows[name, 80]["median batches"], rows[name, 80]["reached"]) == (2, 9)


def test_intervals_of_the_median_lie_between_the_second_and_the_eighth_of_nine_repeats():
    """For nine the order statistics 2 and 8 hold the median with 96 %; censored repeats are the last."""
    rows, _ = speed_rows()
    for v, name in enumerate(STUDIED.variants):
        steps = sorted(POINTS[(a >= 90).argmax()] if (a >= 90).any() else math.inf for a in SPEED[v])
        expected = [x if math.isfinite(x) else math.nan for x in (steps[1], steps[7])]
        row = rows[name, 90]
        assert [row["CI low"], row["CI high"]] == pytest.approx(expected, nan_ok=True)
        assert row["restricted mean batches"] == pytest.approx(np.mean([min(s, 19) for s in steps]))


def test_break_even_is_what_a_variant_saves_against_the_passes_of_its_donors():
    rows, _ = speed_rows()
    cosine, full = rows["cosine", 90], rows["full_donor", 90]
    assert (cosine["passes saved"], cosine["break-even variants"]) == (600 - 64, 2)  # 600 / 536
    assert cosine["break-even"] == "after 2 variants"
    assert (full["passes saved"], full["break-even variants"]) == (600 - 160, 1)  # 100 / 440
    assert rows["cosine", 80]["break-even"] == "never"  # as fast as random_init
    assert rows["random_donor", 90]["break-even"] == "unknown: fewer than half of its repeats got there"
    assert math.isnan(rows["random_init", 90]["passes saved"]) and rows["random_init", 90]["break-even"] == ""


def test_batches_are_compared_with_those_of_random_init_as_if_who_never_gets_there_took_them_all():
    rows, _ = speed_rows()
    steps = {
        t: np.array([[POINTS[(a >= t).argmax()] if (a >= t).any() else 19 for a in of] for of in SPEED])
        for t in (80, 90, 92)
    }
    others = [v for v, name in enumerate(STUDIED.variants) if name != "random_init"]
    for t, batches in steps.items():
        compared = {v: batches[v] - batches[1] for v in others}
        adjusted = holm_of([sign_flip_p(d) for d in compared.values()])
        for (v, d), p in zip(compared.items(), adjusted, strict=True):
            row = rows[STUDIED.variants[v], t]
            assert row["difference in batches"] == pytest.approx(d.mean())
            assert (row["sign-flip p"], row["Holm p"]) == pytest.approx((sign_flip_p(d), p))
        baseline = rows["random_init", t]
        assert all(math.isnan(baseline[c]) for c in ("difference in batches", "sign-flip p", "Holm p"))


def test_gradients_that_a_scheme_takes_of_target_data_count_as_image_passes():
    names = ("random_init", next(n for n in SCHEMES if get_scheme(n).target_epochs))
    epochs = get_scheme(names[1]).target_epochs
    rows, _ = speed_rows(SPEED[[0, 0]], names)
    assert rows[names[1], 90]["image passes"] == rows["random_init", 90]["image passes"] + epochs * TRAIN == 64 + 600


def test_what_is_reached_before_training_takes_no_batch():
    s = side_by_side(["cosine"], SPEED[:1], POINTS, np.full((1, R), 90.5))
    table = speed_table(with_study(variants=("cosine",)), s)
    assert list(table["median batches"][:2]) == list(table["image passes"][:2]) == [0, 0]
    assert list(table["break-even"]) == ["", "", ""]  # nothing to compare with
    assert table[["difference in batches", "Holm p", "passes saved"]].isna().all(axis=None)


def test_the_shown_table_of_speed_says_how_many_got_there():
    _, table = speed_rows()
    rows = {row["variant"]: row for row in rows_of(shown.speed(table))}
    assert list(rows) == list(STUDIED.variants)
    assert rows["cosine"]["batches to 80 %"] == "2 (9 of 9)"
    assert rows["cosine"]["batches to 90 %"] == "2 (8 of 9)"
    assert rows["random_donor"]["batches to 90 %"] == "– (3 of 9)"
    assert rows["random_init"]["image passes to 90 %"] == "600"
    assert rows["cosine"]["with donors to 90 %"] == "664"
    assert rows["cosine"]["donors paid back"] == "after 2 variants"
    assert rows["random_init"]["p to 90 % (Holm)"] == "–"
    assert rows["cosine"]["p to 90 % (Holm)"] == f"{table.loc[1, 'Holm p']:.3f}"


def words(order, names):
    _, table = speed_rows(SPEED[list(order)], names)
    return speed_in_words(table)


def test_speed_in_words_names_the_earliest_to_pay_back_and_how_many_can_be_told_apart():
    assert words(range(4), STUDIED.variants) == (
        "2 of 3 variants that take something from donors reach 90 % in fewer image passes than random_init (medians), "
        "of which none can be told from it (paired sign-flip test of batches, Holm-adjusted). By the medians, the "
        "earliest to pay back the donors' training is full_donor: after 1 network that starts from the same donors."
    )


def test_speed_in_words_where_nothing_saves_passes():
    text = words((1, 0), ("cosine", "random_init"))
    assert text.startswith("No variant that takes something from donors reaches 90 % in fewer image passes")
    assert "never paid back" in text


def test_speed_in_words_does_not_say_never_where_random_init_itself_does_not_get_there():
    names = ("cosine", "random_init")
    assert speed_in_words(speed_rows(SPEED[[0, 3]] - [[[0]], [[20]]], names)[1]) == (
        "random_init did not reach 90 % in half of its repeats; cosine did: whether the donors' training is paid back "
        "is unknown."
    )
    neither = speed_in_words(speed_rows(SPEED[[3, 3]] - 20, names)[1])
    assert "nor did any variant that takes something from donors" in neither


def test_where_random_init_reaches_80_percent_alone_the_cost_is_that_of_80_percent():
    assert "reaches 80 % in fewer image passes than random_init" in words((0, 3), ("cosine", "random_init"))
    table = shown.speed(speed_rows(SPEED[[0, 3]], ("cosine", "random_init"))[1])
    assert {"image passes to 80 %", "with donors to 80 %", "p to 80 % (Holm)"} < set(table)


def test_speed_in_words_without_donors_or_without_random_init_claims_nothing():
    assert words((0,), ("cosine",)) == ""
    assert words((0,), ("random_init",)) == ""


# --- noises, insides, collapses --------------------------------------------------------------------------------------


def test_every_noises_accuracy_is_compared_with_random_inits_on_the_same_test_set():
    noisy = RNG.normal(80, 3, (3, R, DONORS))
    noisy[0] += 3
    table = noise_table(with_study(variants=NAMES), side_by_side(NAMES, ACCURACY[..., None], noisy=noisy))
    rows = rows_of(table)
    assert [(r["variant"], r["test data"]) for r in rows] == [(v, d) for v in NAMES for d in ("clean", *STUDY.noises)]
    for i, row in enumerate(rows):
        v, d = divmod(i, 1 + DONORS)
        sets = [ACCURACY[w] if d == 0 else noisy[w, :, d - 1] for w in (v, 1)]
        assert row["accuracy mean %"] == pytest.approx(sets[0].mean())
        assert row["accuracy sd"] == pytest.approx(sets[0].std(ddof=1))
        if v == 1:
            assert all(math.isnan(row[c]) for c in ("difference (points)", "CI low", "CI high", "sign-flip p"))
        else:
            difference = np.round(sets[0] - sets[1], 9)
            assert row["difference (points)"] == pytest.approx(difference.mean())
            assert (row["CI low"], row["CI high"]) == pytest.approx(bca(difference))
            assert row["sign-flip p"] == pytest.approx(sign_flip_p(difference))
    people = shown.noises(table)
    assert list(people) == ["variant", "clean", *STUDY.noises] and list(people["variant"]) == list(NAMES)
    assert people["blur"][2] == f"{noisy[2, :, 1].mean():.1f} ± {noisy[2, :, 1].std(ddof=1):.1f}"


def made_up(count, names, seed=0):
    """Return results whose looks inside are random numbers; every third repeat of the first variant collapsed."""
    rng, v = np.random.default_rng(seed), len(names)
    results = []
    for r in range(count):
        accuracy = rng.uniform(85, 95, (v, 2))
        if r % 3 == 0:
            accuracy[0, -1] = 11
        values = dict.fromkeys((f.name for f in dataclasses.fields(WarmstartResult)), np.zeros(0))
        values |= {"test_accuracy": accuracy, "dead": rng.integers(0, 9, (2, v, LAYERS))}
        values |= {n: rng.uniform(size=(2, v, LAYERS)) for n in ("activation_mean", "activation_sd")}
        results.append(WarmstartResult(**values | {"gradient_norms": rng.uniform(size=(v, 10, LAYERS))}))
    return results


def test_the_table_of_insides_has_the_means_over_repeats_layer_by_layer():
    results = made_up(4, NAMES)
    rows = rows_of(inside_table(with_study(variants=NAMES), results))
    layers = [("conv1", 2), ("conv2", 4), ("dense1", 16), ("dense2", 10)]
    assert [(r["variant"], r["units"]) for r in rows] == [(v, units) for v in NAMES for _, units in layers]
    assert [r["layer"] for r in rows[:LAYERS]] == [name for name, _ in the_context().layers]
    for i, row in enumerate(rows):
        v, layer = divmod(i, LAYERS)
        for when, word in enumerate(("start", "end")):
            assert row[f"dead at {word}"] == pytest.approx(sum(r.dead[when, v, layer] for r in results) / 4)
            assert row[f"mean at {word}"] == pytest.approx(sum(r.activation_mean[when, v, layer] for r in results) / 4)
            assert row[f"sd at {word}"] == pytest.approx(sum(r.activation_sd[when, v, layer] for r in results) / 4)
        for step, word in ((0, "first step"), (9, "step 10")):
            norm = sum(r.gradient_norms[v, step, layer] for r in results) / 4
            assert row[f"gradient norm, {word}"] == pytest.approx(norm)


def test_collapsed_repeats_stand_beside_the_others_where_there_are_some():
    results = made_up(7, NAMES)
    rows = rows_of(collapse_table(with_study(variants=NAMES), results))
    found = [(r["variant"], r["which repeats"], r["count"]) for r in rows]
    assert found == [
        ("cosine", "collapsed", 3),
        ("cosine", "others", 4),
        ("random_init", "others", 7),
        ("random_donor", "others", 7),
    ]
    for row in rows:
        v, collapsed = NAMES.index(row["variant"]), row["which repeats"] == "collapsed"
        of = [r for r in results if (r.test_accuracy[v, -1] < 50) == collapsed]
        assert row["accuracy mean %"] == pytest.approx(np.mean([r.test_accuracy[v, -1] for r in of]))
        for when, word in enumerate(("start", "end")):
            hidden = [sum(r.dead[when, v, layer] for layer in range(LAYERS - 1)) for r in of]  # without the logits
            assert row[f"dead at {word}"] == pytest.approx(np.mean(hidden))
            last = [r.activation_sd[when, v, LAYERS - 2] for r in of]
            assert row[f"last hidden sd at {word}"] == pytest.approx(np.mean(last))
        norms = [math.sqrt(sum(x**2 for x in r.gradient_norms[v, 0])) for r in of]
        assert row["gradient norm, first step"] == pytest.approx(np.mean(norms))


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept():
    return kept_similarity(the_context(), [r["warmstart"] for r in both_repeats()[0]])


def test_kept_similarity_compares_each_filter_with_itself_before_training(kept):
    repeats, _ = both_repeats()
    assert kept.shape == (3, len(VARIANTS), 2, 10)
    for r, results in enumerate(repeats):
        for v in range(len(VARIANTS)):
            before, after = (
                filters_of(network(weights, v))
                for weights in (results["warmstart"].initial, results["warmstart"].final)
            )
            for m, measure in enumerate(MEASURES):
                expected = [filter_scores(measure, a, b) for a, b in zip(before, after, strict=True)]
                np.testing.assert_allclose(kept[m, v, r], expected, rtol=1e-5, atol=1e-7)


def test_the_table_of_kept_similarity_is_the_mean_over_repeats(kept):
    names = [*the_context().filter_names, "all filters"]
    rows = rows_of(summary_of("warmstart").tables["kept_similarity"])
    keys = [(m, v, f) for m in MEASURES for v in VARIANTS for f in names]
    assert [(r["measure"], r["variant"], r["filter"]) for r in rows] == keys
    for row, (m, v, f) in zip(rows, keys, strict=True):
        values = kept[MEASURES.index(m), VARIANTS.index(v)]
        values = values.mean(-1) if f == "all filters" else values[:, names.index(f)]
        expected = [values.mean(), values.std(ddof=1), values.min(), values.max()]
        assert [row[k] for k in ("mean", "sd", "min", "max")] == pytest.approx(expected)


def test_kept_similarity_in_short_is_the_mean_over_filters(kept):
    short = shown.kept(the_context(), kept)
    assert list(short["variant"]) == list(VARIANTS)
    for m, measure in enumerate(MEASURES):
        for v in range(len(VARIANTS)):
            per_repeat = [kept[m, v, r].mean() for r in range(2)]
            sd = abs(per_repeat[0] - per_repeat[1]) / math.sqrt(2)
            assert short[measure][v] == f"{np.mean(per_repeat):.3f} ± {sd:.3f}"


# --- the summary -----------------------------------------------------------------------------------------------------


def test_the_warm_starts_summary_begins_with_the_answer_and_has_its_table():
    summary = summary_of("warmstart")
    assert summary.note.startswith(f"{summary.answer}\n\nTest accuracy in percent after target training: 2 paired")
    assert summary.answer.startswith("- Does it end better? 2 repeats cannot tell, however large")
    assert summary.terminal.startswith("Test accuracy in percent after target training: 2 paired repeats, level 1")
    for name in VARIANTS:
        assert f"| {name}" in summary.note
