"""The answer follows the numbers, question by question."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from cnnsim_tf.report.formats import listed
from cnnsim_tf.schemes import get_scheme
from cnnsim_tf.schemes.entries import SCHEMES
from cnnsim_tf.statistics import holm
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart.answer import answer, title_of
from cnnsim_tf.steps.warmstart.repeat import controls_of
from cnnsim_tf.steps.warmstart.tables import controls_table, variant_table
from cnnsim_tf.study import Study

R = 12
BASE = np.array([94.0, 95.0, 94.5, 93.8, 94.9, 95.3, 94.2, 94.6, 94.4, 95.1, 94.3, 94.7])
WOBBLE = np.array([0.1, -0.1, 0.2, 0.0, -0.2, 0.1, -0.1, 0.15, -0.15, 0.05, -0.05, 0.0])
MEASURES = ("cosine", "pearson", "frobenius")
BETTER, FASTER, SIMILARITY, COLLAPSES = (
    "Does it end better?",
    "Does it get there faster?",
    "Does choosing by similarity matter?",
    "Did networks collapse?",
)
FLAT = [(90.0, 500.0, 0.0, 1.0)]  # threshold, median batches, difference in batches, Holm p


def answered(repeats=R, speed=None, over=None, **accuracies):
    """Return the answers by question, for accuracies and rows of speed by variant; or the one sentence there is."""
    named = {name.replace("__", "+"): values[:repeats] for name, values in accuracies.items()}
    names, accuracy = tuple(named), np.array(list(named.values()))
    table = variant_table(names, accuracy, accuracy, accuracy if over is None else np.array(over))
    columns = ("threshold %", "median batches", "difference in batches", "Holm p")
    given = {n.replace("__", "+"): rows for n, rows in (speed or {}).items()}
    rows = [{"variant": n} | dict(zip(columns, row, strict=True)) for n in names for row in given.get(n, FLAT)]
    measured = tuple(n for n in names if n.split("+")[0] in MEASURES)
    controls = controls_of(Study(variants=measured)) if measured else {}
    against = controls_table(names, accuracy, controls)
    text = answer(pd.DataFrame(accuracy, index=list(names)), table, pd.DataFrame(rows), against, controls)
    lines = text.split("\n")
    assert all(line.startswith("- ") for line in lines)
    found = {line[2 : line.index("? ") + 1]: line[line.index("? ") + 2 :] for line in lines}
    assert list(found) == [BETTER, FASTER, SIMILARITY, COLLAPSES]
    return found


# --- does it end better? ---------------------------------------------------------------------------------------------


def test_starts_that_end_better_and_worse_come_with_their_numbers():
    text = answered(
        random_init=BASE,
        cosine=BASE + 1 + WOBBLE,
        pearson=BASE + 2 + WOBBLE,
        frobenius=BASE - 3 + WOBBLE,
        random_donor=BASE + 5 * WOBBLE,
    )[BETTER]
    assert text == (
        "Yes, from 2 of 4 starts: pearson ends 2.00 points above random_init (96.57 against 94.57 %, p = 0.002) and "
        "cosine ends 1.00 points above random_init (95.57 against 94.57 %, p = 0.002). frobenius ends 3.00 points "
        "below random_init (91.57 against 94.57 %, p = 0.002). The difference of random_donor (0.00) to random_init "
        "may "
        "be chance."
    )


@pytest.mark.parametrize("signs", list(product((-1, 0, 1), repeat=3)))
def test_in_every_combination_a_start_is_said_once_what_the_table_says_of_it(signs):
    accuracies = {m: BASE + 2 * s + WOBBLE for m, s in zip(MEASURES, signs, strict=True)}
    text = answered(random_init=BASE, **accuracies)[BETTER]
    assert text.startswith("Yes, from") == (1 in signs)
    assert text.startswith("No start is shown to end above random_init, which ends at 94.57 %.") == (1 not in signs)
    for name, sign in zip(MEASURES, signs, strict=True):
        assert text.count(name) == 1
        words = text[text.index(name) :]
        assert words.startswith(f"{name} ends 2.00 points {'above' if sign > 0 else 'below'} ") == (sign != 0)
    chance = [m for m, s in zip(MEASURES, signs, strict=True) if not s]
    said = f"{listed([f'{n} (0.00)' for n in chance])} to random_init" if chance else "may be chance"
    assert (said in text) == bool(chance)


def test_of_many_starts_the_best_and_the_worst_are_said_and_the_rest_counted():
    names = [f"one_donor{i}" for i in range(5)]
    many = {n: BASE + 1 + i + WOBBLE for i, n in enumerate(names)}
    text = answered(random_init=BASE, **many)[BETTER]
    assert text.startswith(
        "Yes, from 5 of 5 starts: one_donor4 ends 5.00 points above random_init (99.57 against 94.57 %, "
    )
    assert text.endswith("one_donor2 ends 3.00 points above random_init (97.57 against 94.57 %, p = 0.002) and 2 more.")
    worse = answered(random_init=BASE, **{n: BASE - 1 - i + WOBBLE for i, n in enumerate(names)})[BETTER]
    assert "which ends at 94.57 %. one_donor4 ends 5.00 points below random_init" in worse and worse.endswith(
        "and 2 more."
    )
    chance = {f"n{i}": BASE + WOBBLE for i in range(10)}
    assert "n7 (0.00) and 2 more to random_init may be chance." in answered(random_init=BASE, **chance)[BETTER]


@pytest.mark.parametrize(("others", "fewest"), [(1, 6), (2, 7), (4, 8)])
@pytest.mark.parametrize("difference", [-50, 0, 3])
def test_too_few_repeats_are_said_to_tell_nothing_whatever_the_difference(others, fewest, difference):
    names = ("cosine", "pearson", "frobenius", "random_donor")[:others]
    for repeats in range(2, fewest):
        found = answered(repeats, random_init=BASE, **dict.fromkeys(names, BASE + difference))
        starts = f"{others} start{'s' * (others > 1)}"
        best = "cosine" if difference > 0 else "random_init"
        assert found[BETTER].startswith(
            f"{repeats} repeats cannot tell, however large a difference: to compare {starts} with random_init takes at "
            f"least {fewest}. The highest mean so far is that of {best}, "
        )
        assert found[FASTER].startswith(f"{repeats} repeats cannot tell. ")
        if others == 4:
            needed = 7  # of three comparisons with random_donor
            assert (f"{repeats} repeats cannot tell: it takes at least {needed}." in found[SIMILARITY]) == (
                repeats < needed
            )
            assert not (repeats < needed and "may be chance" in found[SIMILARITY])
        assert not any("Yes" in said for said in found.values())
    assert "cannot tell" not in answered(fewest, random_init=BASE, **dict.fromkeys(names, BASE + difference))[BETTER]


@pytest.mark.parametrize(
    ("repeats", "accuracies", "said"),
    [
        (20, {"cosine": BASE, "pearson": BASE + 3}, "Nothing is compared: random_init is not among the variants."),
        (20, {"random_init": BASE}, "Nothing is compared: random_init is the only variant."),
        (1, {"random_init": BASE, "cosine": BASE + 9}, "A single repeat shows no difference reliably."),
    ],
)
def test_where_nothing_can_be_compared_with_random_init_the_answer_says_why_and_counts_collapses(
    repeats, accuracies, said
):
    found = answered(repeats, **accuracies)
    assert found[BETTER] == found[FASTER] == said
    assert found[COLLAPSES].startswith("No: none of ")


def test_without_random_init_similarity_is_told_all_the_same():
    found = answered(cosine=BASE + 2 + WOBBLE, random_donor=BASE)
    assert found[SIMILARITY].startswith(
        "Yes. Against the same with donors drawn at random, cosine ends 2.00 points above"
    )


# --- does it get there faster? ---------------------------------------------------------------------------------------


def test_times_are_compared_at_the_highest_accuracy_that_random_init_reached_in_half_of_its_repeats():
    speed = {
        "random_init": [(90.0, 500.0, np.nan, np.nan), (92.0, 800.0, np.nan, np.nan), (99.0, np.nan, np.nan, np.nan)],
        "cosine": [(90.0, 900.0, 400.0, 0.001), (92.0, 400.0, -300.4, 0.0004), (99.0, 900.0, -1.0, 0.001)],
        "pearson": [(90.0, 100.0, -400.0, 0.001), (92.0, np.nan, 110.5, 0.01), (99.0, np.nan, 0.0, 1.0)],
        "frobenius": [(90.0, 100.0, -400.0, 0.001), (92.0, 300.0, -9.0, 0.3), (99.0, np.nan, 0.0, 1.0)],
    }
    said = answered(speed=speed, random_init=BASE, **dict.fromkeys(MEASURES, BASE))[FASTER]
    assert said == (
        "Yes. To reach 92 %, cosine takes 300 batches fewer than random_init on average (p < 0.001; half of "
        "its repeats get there within 400, half of random_init's within 800). Slower: pearson takes 110 batches more "
        "than random_init on average (p = 0.010; "
        "fewer than half of its repeats get there, half of random_init's within 800). Repeats that never get there "
        "count with "
        "all batches; the donors' training is not counted."
    )


def test_the_fastest_starts_are_those_with_the_smallest_means_and_none_is_fast_and_slow():
    names = ("cosine", "pearson", "frobenius", "one_donor", "medoid")
    speed = {n: [(90.0, 500.0 - 100 * i, -50.0 * i - 50, 0.001)] for i, n in enumerate(names)}
    speed["random_init"] = [(90.0, 480.0, np.nan, np.nan)]
    given = {"random_init": BASE} | dict.fromkeys(names, BASE)
    said = answered(speed=speed, **given)[FASTER]
    assert said.startswith("Yes. To reach 90 %, medoid takes 250 batches fewer")
    assert said.index("medoid") < said.index("one_donor") < said.index("frobenius takes 150")
    assert "pearson" not in said and " and 2 more. Repeats that" in said and "Slower" not in said
    slower = {n: [(90.0, 100.0, 50.0 * i + 50, 0.001)] for i, n in enumerate(names)} | {
        "random_init": speed["random_init"]
    }
    said = answered(speed=slower, **given)[FASTER]
    assert said.startswith(
        "It is not shown to. At best, to reach 90 %, cosine takes 50 batches more than random_init on average"
    )
    assert "Slower: medoid takes 250 batches more" in said and " and 2 more. Repeats that" in said


def test_the_fastest_start_is_named_where_none_is_shown_to_be_faster():
    speed = {"random_init": [(90.0, 500.0, np.nan, np.nan)], "cosine": [(90.0, 450.0, -40.0, 0.051)]}
    said = answered(speed=speed, random_init=BASE, cosine=BASE)[FASTER]
    assert said.startswith(
        "It is not shown to. At best, to reach 90 %, cosine takes 40 batches fewer than random_init on average (p = "
    )


def test_where_random_init_reaches_no_accuracy_of_the_table_accuracies_along_training_are_compared():
    rows = [(80.0, np.nan, np.nan, np.nan), (90.0, np.nan, np.nan, np.nan)]
    given = {"random_init": BASE - 60, "cosine": BASE - 60, "pearson": BASE - 60, "random_donor": BASE - 60}
    over = [BASE, BASE + 2 + WOBBLE, BASE - 2 + WOBBLE, BASE + WOBBLE]
    p = f"p = {holm([2 / 2**R] * 2 + [1])[0]:.3f}"
    found = answered(speed=dict.fromkeys(given, rows), over=over, **given)[FASTER]
    assert found == (
        f"Yes. On average over target training, cosine is 2.00 points ahead of random_init ({p}). Slower: pearson is "
        f"2.00 points behind random_init ({p})."
    )
    over = [BASE, BASE - 3 + WOBBLE, BASE - 2 + WOBBLE, BASE - 4 + WOBBLE]
    found = answered(speed=dict.fromkeys(given, rows), over=over, **given)[FASTER]
    assert found.startswith(
        "It is not shown to. At best, on average over target training, pearson is 2.00 points behind random_init"
    )
    assert "Slower: random_donor is 4.00 points behind" in found


# --- does choosing by similarity matter? -----------------------------------------------------------------------------


def test_a_variant_is_compared_with_the_same_of_donors_drawn_at_random():
    found = answered(
        random_init=BASE,
        cosine=BASE + 2 + WOBBLE,
        pearson=BASE + 1 - WOBBLE,
        random_donor=BASE + 1,
        cosine__centred_medoid_donor=BASE - 2 + WOBBLE,
        centred_one_donor=BASE,
    )[SIMILARITY]
    assert found == (
        "Yes, both ways. Against the same with donors drawn at random, cosine ends 1.00 points above random_donor "
        "(p = 0.001) and cosine+centred_medoid_donor ends 2.00 points below centred_one_donor (p = 0.001). The "
        "difference of pearson "
        "(0.00) to random_donor may be chance."
    )


def test_starts_that_gain_by_similarity_are_said_before_those_that_lose():
    worse = dict.fromkeys(MEASURES, BASE - 1 + WOBBLE)
    said = answered(random_init=BASE, **worse, cosine__medoid=BASE + 3 + WOBBLE, random_donor=BASE)[SIMILARITY]
    assert said.startswith(
        "Yes, both ways. Against the same with donors drawn at random, cosine+medoid ends 3.00 points above random_"
    )
    assert said.endswith(" and 1 more.")


def test_similarity_that_does_harm_or_nothing_is_not_said_to_help():
    worse = answered(random_init=BASE, cosine=BASE - 2 + WOBBLE, random_donor=BASE)[SIMILARITY]
    assert worse.startswith(
        "Yes, for the worse. Against the same with donors drawn at random, cosine ends 2.00 points "
    )
    same = answered(random_init=BASE, cosine=BASE + WOBBLE, random_donor=BASE)[SIMILARITY]
    assert same == (
        "It is not shown to, against the same with donors drawn at random. The difference of cosine (0.00) to "
        "random_donor may be chance."
    )


def test_a_control_that_the_study_lacks_is_named():
    found = answered(random_init=BASE, cosine=BASE, pearson__centred_medoid_donor=BASE, random_donor=BASE)[SIMILARITY]
    assert found.endswith("For pearson+centred_medoid_donor, it takes the variant centred_one_donor beside it to tell.")
    many = {f"{m}__{s}": BASE for m in MEASURES for s in ("medoid", "transplant")}
    found = answered(random_init=BASE, **many)[SIMILARITY]
    assert found == (
        "For cosine+medoid, cosine+transplant and pearson+medoid and 3 more, it takes the variant random_donor beside "
        "it to tell."
    )
    none = answered(random_init=BASE, cosine__rescaled=BASE)[SIMILARITY]
    assert none == "None of the variants that choose by similarity has a control to tell by."
    assert answered(random_init=BASE, one_donor=BASE)[SIMILARITY] == "No variant of this study chooses by similarity."


def test_the_comparison_with_controls_is_corrected_for_the_number_of_measures():
    """Of six differences of 1 and two of -0.1, p is 8 / 256 = 0.031: under 0.05 once, but not three times."""
    control = BASE[:8] - np.array([1, 1, 1, 1, 1, 1, -0.1, -0.1])
    alone = answered(8, random_init=BASE, cosine=BASE, random_donor=control)[SIMILARITY]
    three = answered(8, random_init=BASE, **dict.fromkeys(MEASURES, BASE), random_donor=control)[SIMILARITY]
    assert alone.startswith("Yes.") and three.startswith("It is not shown to, against")


def test_controls_are_schemes_without_a_measure():
    controls = {name: get_scheme(name).control for name in SCHEMES if get_scheme(name).control}
    assert controls == {
        **dict.fromkeys(("transplant", "medoid"), "random_donor"),
        "medoid_donor": "one_donor",
        "centred": "centred_random_donor",
        "centred_medoid_donor": "centred_one_donor",
    }
    for name, control in controls.items():
        assert get_scheme(name).needs_measure and not get_scheme(control).needs_measure
        assert get_scheme(control).kind == "control"
    study = Study(variants=("random_init", "cosine", "pearson+least_alike", "frobenius+centred"))
    assert controls_of(study) == {
        "cosine": "random_donor",
        "pearson+least_alike": "",
        "frobenius+centred": "centred_random_donor",
    }


# --- did networks collapse? ------------------------------------------------------------------------------------------


def test_collapses_are_counted_by_start():
    collapsed, twice = BASE.copy(), BASE.copy()
    collapsed[[2, 5, 6]] = 11.0
    twice[[1, 2]] = 49.99
    found = answered(random_init=BASE, cosine=twice, pearson=collapsed, frobenius=BASE)[COLLAPSES]
    assert found == (
        "5 of 48 networks ended under 50 %: 3 of 12 from pearson and 2 of 12 from cosine. None did from random_init "
        "and frobenius."
    )


def test_no_collapse_at_all_is_said_plainly():
    assert answered(random_init=BASE, cosine=BASE)[COLLAPSES] == "No: none of 24 networks ended under 50 %."


def test_where_random_init_itself_hardly_learned_it_is_said_that_training_may_be_too_short():
    found = answered(random_init=BASE - 60, cosine=BASE - 62)[COLLAPSES]
    little = " As random_init is among them in half of its repeats or more, it may only be too little training."
    assert found == f"24 of 24 networks ended under 50 %: 12 of 12 from random_init and 12 of 12 from cosine.{little}"
    some = np.where(np.arange(R) < 6, 40.0, 90.0)
    assert answered(random_init=some, cosine=BASE)[COLLAPSES].endswith(little)
    some[0] = 90
    assert not answered(random_init=some, cosine=BASE)[COLLAPSES].endswith(little)


def test_of_many_starts_the_most_collapsed_are_counted_by_name():
    many = {f"n{i}": np.where(np.arange(R) <= i, 40.0, 90.0) for i in range(10)}
    found = answered(random_init=BASE, **many)[COLLAPSES]
    assert found.startswith("55 of 132 networks ended under 50 %: 10 of 12 from n9, 9 of 12 from n8, ")
    assert found.endswith("3 of 12 from n2 and 2 more. None did from random_init.")
    healthy = answered(random_init=BASE - 50, **{f"n{i}": BASE for i in range(9)})[COLLAPSES]
    assert "None did" not in healthy and "and 1 more" not in healthy


# --- what the table of variants is of --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"level": 0.25, "seed": 7}, "level 0.25, seed 7."),
        ({"target": "mixed", "target_images": 6000}, "level 1, seed 0, target mixed, 6,000 target images."),
        ({"target": "noisy", "align": "network"}, "level 1, seed 0, target noisy, align network."),
        ({"repeats": 1}, "level 1, seed 0."),
    ],
)
def test_the_title_names_level_and_seed_and_what_is_not_as_published(changes, settings):
    study = Study(**{"repeats": 12} | changes)
    repeats = "1 paired repeat" if study.repeats == 1 else "12 paired repeats"
    text = title_of(Context(study, None))
    assert text == f"Test accuracy in percent after target training: {repeats}, {settings}"
