"""The answer and the headline follow the numbers."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from cnnsim_tf.report.formats import listed
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart.answer import answer, headline
from cnnsim_tf.steps.warmstart.tables import against_baseline
from cnnsim_tf.study import Study

R = 12
BASE = np.array([94.0, 95.0, 94.5, 93.8, 94.9, 95.3, 94.2, 94.6, 94.4, 95.1, 94.3, 94.7])
WOBBLE = np.array([0.1, -0.1, 0.2, 0.0, -0.2, 0.1, -0.1, 0.15, -0.15, 0.05, -0.05, 0.0])
MEASURES = ("cosine", "pearson", "frobenius")
TITLE = "Test accuracy in percent after target training: "


def table_of(accuracies):
    """Return what the words need of the table of variants, and the accuracies."""
    accuracy = np.array(list(accuracies.values()))
    return against_baseline(tuple(accuracies), accuracy, ("difference", "verdict")), accuracy


def answered(repeats=R, **accuracies):
    """Return the answer for accuracies by variant."""
    named = {name.replace("__", "+"): values[:repeats] for name, values in accuracies.items()}
    table, accuracy = table_of(named)
    return answer(pd.DataFrame(accuracy, index=list(named)), [n for n in named if n in MEASURES], table)


def headed(accuracies, repeats=R, **changes):
    """Return the headline for accuracies by variant."""
    study = Study(repeats=repeats, variants=tuple(accuracies), **changes)
    return headline(Context(study, None), table_of({n: a[:repeats] for n, a in accuracies.items()})[0])


# --- the answer ------------------------------------------------------------------------------------------------------


def test_starts_that_are_all_higher_are_said_to_be_higher():
    text = answered(random_init=BASE, cosine=BASE + 1 + WOBBLE, pearson=BASE + 2 + WOBBLE, random_donor=BASE - 1)
    assert text == (
        "Over 12 paired repeats, of the starts from filters that came out alike, cosine and pearson ended with a "
        "higher mean accuracy than random_init; no network collapsed (ended under 50 %). As for choosing by "
        "similarity, cosine and pearson ended with a higher mean accuracy than filters of donors drawn at random "
        "(random_donor); of the other variants, random_donor ended lower than random_init."
    )


def test_of_mixed_results_each_variant_is_named_once_with_its_own_verdict():
    text = answered(
        random_init=BASE,
        cosine=BASE + 1 + WOBBLE,
        pearson=BASE - 2 + WOBBLE,
        frobenius=BASE + WOBBLE,
        random_donor=BASE - 2 - WOBBLE,
    )
    assert text == (
        "Over 12 paired repeats, of the starts from filters that came out alike, cosine ended with a higher mean "
        "accuracy than random_init; pearson ended with a lower mean accuracy than random_init; frobenius could not be "
        "told from random_init by final accuracy; no network collapsed (ended under 50 %). As for choosing by "
        "similarity, cosine and frobenius ended with a higher mean accuracy than filters of donors drawn at random "
        "(random_donor); pearson could not be told from filters of donors drawn at random (random_donor) by final "
        "accuracy; of the other variants, random_donor ended lower than random_init."
    )


@pytest.mark.parametrize("signs", list(product((-1, 0, 1), repeat=2)))
def test_in_every_combination_a_variant_is_called_what_the_table_says(signs):
    accuracies = {m: BASE + 2 * s + WOBBLE for m, s in zip(MEASURES[:2], signs, strict=True)}
    text = answered(random_init=BASE, **accuracies)
    first = text.split(". ")[0].split("alike, ")[1]
    clauses = {
        1: " ended with a higher mean accuracy than random_init",
        -1: " ended with a lower mean accuracy than random_init",
        0: " could not be told from random_init by final accuracy",
    }
    wanted = [
        listed([m for m, s in zip(MEASURES[:2], signs, strict=True) if s == sign]) + clause
        for sign, clause in clauses.items()
        if sign in signs
    ]
    assert first.split("; ")[:-1] == wanted


def test_random_donors_that_do_as_well_are_said_to_do_so():
    text = answered(
        random_init=BASE, cosine=BASE + 2 + WOBBLE, pearson=BASE + 2 - WOBBLE, random_donor=BASE + 2 + WOBBLE[::-1]
    )
    assert "cosine and pearson ended with a higher mean accuracy than random_init; " in text
    assert text.endswith(
        "None of them could be told from filters of donors drawn at random (random_donor), so that nothing shows that "
        "choosing by similarity matters; of the other variants, random_donor ended higher than random_init."
    )


def test_one_measure_alone_is_named_next_to_random_donors():
    text = answered(random_init=BASE, cosine=BASE + 2 + WOBBLE, random_donor=BASE + 2 - WOBBLE)
    assert (
        "cosine could not be told from filters of donors drawn at random (random_donor), so that nothing shows" in text
    )
    assert "None of them" not in text


def test_the_comparison_with_random_donors_is_corrected_for_the_number_of_measures():
    """Of six differences of 1 and two of -0.1, p is 8 / 256 = 0.031: under 0.05 once, but not three times."""
    control = BASE[:8] - np.array([1, 1, 1, 1, 1, 1, -0.1, -0.1])
    alone = answered(8, random_init=BASE, cosine=BASE, random_donor=control)
    three = answered(8, random_init=BASE, **dict.fromkeys(MEASURES, BASE), random_donor=control)
    assert "cosine ended with a higher mean accuracy than filters of donors" in alone
    assert "nothing shows that choosing by similarity matters" in three


@pytest.mark.parametrize("control", [{}, {"random_donor": BASE + WOBBLE}])
def test_collapses_of_the_starts_from_alike_filters_and_of_random_init_are_counted(control):
    collapsed = BASE.copy()
    collapsed[[2, 5, 6]] = 11.0
    text = answered(random_init=BASE, cosine=collapsed, pearson=BASE + WOBBLE, **control)
    assert "; 3 of 36 networks collapsed (ended under 50 %): 3 with cosine." in text
    assert ("by similarity" in text) == bool(control)
    both = answered(random_init=collapsed, cosine=collapsed, **control)
    assert "; 6 of 24 networks collapsed (ended under 50 %): 3 with random_init and 3 with cosine." in both


def test_no_collapse_at_all_is_said_plainly():
    text = answered(random_init=BASE, cosine=BASE + WOBBLE)
    assert text.endswith("; no network collapsed (ended under 50 %).")


def test_where_random_init_itself_hardly_learned_nothing_is_called_a_collapse():
    text = answered(random_init=BASE - 60, cosine=BASE - 62)
    assert "random_init itself ended under 50 %, which is too little training to speak of collapses" in text
    assert "networks collapsed" not in text


def test_other_variants_that_can_be_told_from_random_init_are_named_and_others_are_not():
    text = answered(
        random_init=BASE, cosine=BASE + WOBBLE, full_donor=BASE + 2, cosine__least_alike=BASE - 2, one_donor=BASE
    )
    assert text.endswith(
        " Of the other variants, full_donor ended higher than random_init and cosine+least_alike ended lower than "
        "random_init."
    )
    none = answered(random_init=BASE, cosine=BASE + WOBBLE, one_donor=BASE - WOBBLE)
    assert none.endswith(" Of the other variants, none could be told from random_init.")


def test_a_study_without_starts_from_alike_filters_leaves_its_question_open():
    text = answered(random_init=BASE, random_donor=BASE + 2 + WOBBLE, cosine__least_alike=BASE - 1)
    assert text == (
        "No variant starts from the filters that a measure finds most alike, which the study's question is about; no "
        "network collapsed (ended under 50 %). Of the variants, random_donor ended higher than random_init and "
        "cosine+least_alike ended lower than random_init."
    )


@pytest.mark.parametrize(
    ("repeats", "accuracies", "said"),
    [
        (20, {"cosine": BASE, "pearson": BASE + 3}, "Nothing is compared: random_init is not among the variants."),
        (20, {"random_init": BASE}, "Nothing is compared: random_init is the only variant."),
        (1, {"random_init": BASE, "cosine": BASE + 9}, "A single repeat shows no difference reliably."),
    ],
)
def test_where_nothing_can_be_compared_the_answer_and_the_headline_say_why_and_nothing_else(repeats, accuracies, said):
    assert answered(repeats, **accuracies) == said
    text = headed(accuracies, repeats)
    assert text.endswith(said) and "higher" not in text and f"{repeats} paired repeat{'s' * (repeats > 1)}," in text


@pytest.mark.parametrize(("others", "fewest"), [(1, 6), (2, 7), (4, 8)])
@pytest.mark.parametrize("difference", [-50, 0, 3])
def test_too_few_repeats_are_said_to_show_nothing_whatever_the_difference(others, fewest, difference):
    names = ("cosine", "pearson", "frobenius", "random_donor")[:others]
    accuracies = dict.fromkeys(names, BASE + difference)
    for repeats in range(2, fewest):
        text = answered(repeats, random_init=BASE, **accuracies)
        plural = "s" if others > 1 else ""
        assert text.startswith(
            f"So few repeats ({repeats}) cannot show any difference, however large: to compare {others} "
            f"variant{plural} with random_init takes at least {fewest}. "
        )
        assert "could not be told" not in text and "higher" not in text
        assert ("networks collapsed" in text) == (difference == -50)
    assert "So few" not in answered(fewest, random_init=BASE, **accuracies)


@pytest.mark.parametrize(("others", "fewest"), [(1, 6), (2, 7), (4, 8)])
def test_with_the_fewest_repeats_a_difference_of_one_sign_everywhere_is_found(others, fewest):
    names = ("cosine", "pearson", "frobenius", "random_donor")[:others]
    text = answered(fewest, random_init=BASE, **dict.fromkeys(names, BASE + 3))
    assert "ended with a higher mean accuracy than random_init" in text


# --- the headline ----------------------------------------------------------------------------------------------------


def test_the_headline_says_which_variants_are_higher_lower_or_not_distinguishable():
    text = headed(
        {"cosine": BASE + 2 + WOBBLE, "random_init": BASE, "pearson": BASE - 3 + WOBBLE, "frobenius": BASE + WOBBLE}
    )
    assert text == (
        f"{TITLE}12 paired repeats, level 1, seed 0. Compared with random_init (points; sign-flip test, Holm-adjusted, "
        "5 %): higher: cosine (+2.00); lower: pearson (−3.00); not distinguishable: frobenius (0.00)."
    )


def test_a_difference_that_is_not_distinguishable_is_shown_with_its_sign():
    wide = 10 * WOBBLE
    assert "not distinguishable: cosine (+0.10)." in headed({"random_init": BASE, "cosine": BASE + 0.1 + wide})
    assert "not distinguishable: cosine (−0.10)." in headed({"random_init": BASE, "cosine": BASE - 0.1 + wide})


def test_differences_that_are_all_the_same_are_certain_unless_they_are_zero():
    assert "higher: cosine (+0.50)." in headed({"random_init": BASE, "cosine": BASE + 0.5})
    assert "lower: cosine (−0.50)." in headed({"random_init": BASE, "cosine": BASE - 0.5})
    assert "not distinguishable: cosine (0.00)." in headed({"random_init": BASE, "cosine": BASE})


@pytest.mark.parametrize(("repeats", "said"), [(2, True), (5, True), (6, False), (7, False)])
def test_few_repeats_come_with_a_word_on_what_they_can_show(repeats, said):
    text = headed({"random_init": BASE, "cosine": BASE + 1 + WOBBLE}, repeats)
    assert f"{repeats} paired repeats" in text
    assert text.endswith("Fewer than 6 repeats cannot show a difference, however large.") == said
    assert ("higher: cosine" in text) == (not said)


def test_it_takes_more_repeats_to_compare_more_variants():
    several = {"random_init": BASE, **dict.fromkeys((*MEASURES, "random_donor"), BASE + 1 + WOBBLE)}
    assert "Fewer than 8 repeats cannot show" in headed(several, 7)
    assert "Fewer than" not in headed(several, 8)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"level": 0.25, "seed": 7}, "level 0.25, seed 7. "),
        ({"target": "mixed"}, "level 1, seed 0, target mixed. "),
        ({"target": "noisy", "align": "network"}, "level 1, seed 0, target noisy, align network. "),
        ({"align": "filters"}, "level 1, seed 0, align filters. "),
    ],
)
def test_the_headline_names_level_and_seed_and_what_is_not_as_published(changes, settings):
    text = headed({"random_init": BASE, "cosine": BASE + WOBBLE}, **changes)
    assert text.startswith(f"{TITLE}12 paired repeats, {settings}Compared with")
