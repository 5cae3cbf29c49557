"""Names of variants and of groups of them."""

import dataclasses
import sys

import numpy as np
import pytest

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.measures import MEASURES as MEASURES_KNOWN
from cnnsim_tf.schemes import (
    SCHEMES,
    Scheme,
    Variant,
    donor_of,
    expand_variants,
    expanded,
    get_scheme,
    parse_variant,
    schemes_of,
    variants_of,
)
from cnnsim_tf.study import Study

MEASURES = ("cosine", "pearson", "frobenius")


def my_measure(a, b):
    return -np.abs(a - b).max(-1)


def my_scheme(ingredients):
    return [np.zeros_like(w) for w in ingredients.fresh]


ALONE = Scheme(my_scheme, needs_measure=False)
WITH_MEASURE = Scheme(my_scheme, needs_measure=True)
OWN_MEASURE, OWN_SCHEME = f"{__name__}:my_measure", f"{__name__}:my_scheme"
OWN_ALONE, OWN_WITH_MEASURE = f"{__name__}:ALONE", f"{__name__}:WITH_MEASURE"


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("random_init", Variant("random_init", None, "random_init")),
        ("one_donor", Variant("one_donor", None, "one_donor")),
        ("cosine", Variant("cosine", "cosine", "transplant")),
        ("frobenius+transplant", Variant("frobenius+transplant", "frobenius", "transplant")),
        ("pearson+medoid", Variant("pearson+medoid", "pearson", "medoid")),
        (f"pearson+{OWN_SCHEME}", Variant(f"pearson+{OWN_SCHEME}", "pearson", OWN_SCHEME)),
        (f"pearson+{OWN_WITH_MEASURE}", Variant(f"pearson+{OWN_WITH_MEASURE}", "pearson", OWN_WITH_MEASURE)),
        (OWN_MEASURE, Variant(OWN_MEASURE, OWN_MEASURE, "transplant")),
        (f"{OWN_MEASURE}+{OWN_SCHEME}", Variant(f"{OWN_MEASURE}+{OWN_SCHEME}", OWN_MEASURE, OWN_SCHEME)),
        (OWN_ALONE, Variant(OWN_ALONE, None, OWN_ALONE)),
    ],
)
def test_a_variants_name_is_a_measure_or_measure_plus_scheme_or_a_scheme_alone(name, variant):
    assert parse_variant(name, (*MEASURES, OWN_MEASURE)) == variant


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("transplant", "the variant 'transplant' needs a measure: write cosine+transplant, or cosine"),
        ("medoid", "the variant 'medoid' needs a measure: write cosine+medoid"),
        (OWN_WITH_MEASURE, f"the variant '{OWN_WITH_MEASURE}' needs a measure: write cosine+{OWN_WITH_MEASURE}"),
        ("cosine+random_init", "has a measure, of which random_init makes no use: write random_init"),
        ("cosine+one_donor", "has a measure, of which one_donor makes no use: write one_donor"),
        (f"cosine+{OWN_ALONE}", f"has a measure, of which {OWN_ALONE} makes no use: write {OWN_ALONE}"),
        ("cosin", "unknown variant 'cosin': did you mean 'cosine'? known are random_init, "),
        ("random", "unknown variant 'random': did you mean 'random_"),
        ("one_doner", "unknown variant 'one_doner': did you mean 'one_donor'?"),
        ("candidate", "unknown variant 'candidate': did you mean 'candidates'?"),
        ("xyzzy", "unknown variant 'xyzzy': known are random_init, "),
        ("xyzzy", "measure+scheme, where a scheme is one of transplant, "),
        ("cosin+transplant", "unknown measure 'cosin': did you mean 'cosine'?"),
        ("cosin+one_donor", "unknown measure 'cosin': did you mean 'cosine'?"),
        (
            "cosine+transplan",
            "unknown scheme 'transplan': did you mean 'transplant'? known are random_init, transplant",
        ),
        ("cosine+", "unknown scheme ''"),
        ("+transplant", "unknown measure ''"),
        ("", "unknown variant ''"),
        ("json:nothing", "cannot import the measure 'json:nothing'"),
        ("cosine+json:nothing", "cannot import the scheme 'json:nothing'"),
        (OWN_MEASURE, f"needs the measure '{OWN_MEASURE}', but measures is cosine,pearson,frobenius"),
    ],
)
def test_a_variant_that_means_nothing_is_refused_in_one_sentence(name, words):
    with pytest.raises(ParameterError) as caught:
        parse_variant(name, MEASURES)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["frobenius", "frobenius+transplant", "frobenius+medoid"])
def test_a_variant_whose_measure_is_not_among_the_studys_measures_is_refused(name):
    with pytest.raises(ParameterError, match="needs the measure 'frobenius', but measures is cosine,pearson: add it"):
        parse_variant(name, ("cosine", "pearson"))


def test_a_scheme_that_lacks_a_measure_is_refused_even_where_the_study_has_none():
    with pytest.raises(ParameterError, match=r"write cosine\+medoid"):
        parse_variant("medoid", ())


def test_a_studys_variants_come_in_their_order_and_under_their_names():
    study = Study(measures=MEASURES, variants=("one_donor", "pearson", "cosine+medoid", "cosine+transplant"))
    assert variants_of(study) == [parse_variant(name, MEASURES) for name in study.variants]
    assert schemes_of(study) == ["one_donor", "transplant", "medoid"]  # each once


def test_a_variant_under_a_second_name_is_refused():
    with pytest.raises(ParameterError, match=r"the variants 'cosine' and 'cosine\+transplant' are the same: leave one"):
        variants_of(Study(measures=MEASURES, variants=("cosine", "random_init", "cosine+transplant")))


# --- groups ----------------------------------------------------------------------------------------------------------


def test_published_is_the_baseline_and_every_measure():
    assert expand_variants(["published"], MEASURES) == ("random_init", "cosine", "pearson", "frobenius")


def test_controls_are_the_controls_with_every_measure_where_they_need_one():
    controls = expand_variants(["controls"], ("cosine", "pearson"))
    with_measure = ("least_alike", "shuffled", "norm_matched")
    assert controls[:6] == tuple(f"{m}+{s}" for s in with_measure for m in ("cosine", "pearson"))
    assert {"random_donor", "one_donor", "full_donor"} < set(controls)


@pytest.mark.parametrize("measures", [("cosine",), MEASURES, (*MEASURES, OWN_MEASURE)])
def test_the_groups_make_up_all_and_all_of_it_has_a_meaning(measures):
    names = [name for name in SCHEMES if get_scheme(name).kind != "each"]  # as are donor_1, … once they are named
    every = expand_variants(["all"], measures)
    assert every == expand_variants(["published", "controls", "candidates"], measures)
    variants = [parse_variant(name, measures) for name in every]
    expected = {(m if get_scheme(s).needs_measure else None, s) for s in names for m in measures}
    assert len(variants) == len(expected)
    assert {(v.measure, v.scheme) for v in variants} == expected


def test_only_donor_and_a_number_names_a_donor():
    named = ["donor_1", "donor_12", "donor_0", "donor_01", "donor_", "donor_tools:halved", "one_donor"]
    assert [donor_of(name) for name in named] == [1, 12, None, None, None, None, None]
    assert expand_variants(["each_donor", "donor_2", "cosine"], ("cosine",), 3) == (
        "donor_1",
        "donor_2",
        "donor_3",
        "cosine",
    )
    assert parse_variant("donor_2", ("cosine",)) == Variant("donor_2", None, "donor_2")
    with pytest.raises(ParameterError, match="unknown variant 'donor_0'"):
        parse_variant("donor_0", ("cosine",))


def test_names_keep_their_order_and_each_variant_comes_once():
    names = ["one_donor", "cosine+transplant", "published", "cosine", "no such", "one_donor"]
    expected = ("one_donor", "cosine+transplant", "random_init", "pearson", "no such")
    assert expand_variants(names, ("cosine", "pearson")) == expected


def test_a_studys_groups_are_written_out_and_all_else_stays():
    study = Study(measures=("pearson", "all", OWN_MEASURE), variants=("one_donor", "published"), seed=3)
    found = expanded(study)
    others = [name for name in MEASURES_KNOWN if name != "pearson"]
    assert found.measures == ("pearson", *others, OWN_MEASURE)
    assert found.variants == ("one_donor", "random_init", *found.measures)
    assert dataclasses.replace(found, measures=study.measures, variants=study.variants) == study
    assert expanded(found) == found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"measures": ("cosin",), "variants": ("cosin",)}, "unknown measure 'cosin': did you mean 'cosine'?"),
        ({"measures": ("all", "cosin")}, "unknown measure 'cosin'"),
        ({"variants": ("random_innit",)}, "unknown variant 'random_innit': did you mean 'random_init'?"),
        ({"variants": ("published", "cosine+medoidd")}, "unknown scheme 'medoidd'"),
        ({"measures": ("cosine",), "variants": ("pearson",)}, "needs the measure 'pearson'"),
        ({"measures": ("no_such_module:f",)}, "cannot import the measure 'no_such_module:f'"),
    ],
)
def test_unknown_names_of_a_study_are_told_when_groups_are_written_out(changes, words):
    with pytest.raises(ParameterError) as caught:
        expanded(Study(**changes))
    assert words in str(caught.value)


def test_to_write_groups_out_no_module_of_the_users_is_imported(tmp_path, monkeypatch):
    (tmp_path / "not_imported.py").write_text("raise OSError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    own = ("not_imported:measure", "cosine+not_imported:scheme", "not_imported:alone")
    study = Study(measures=("cosine", own[0]), variants=own)
    assert expanded(study) == study and "not_imported" not in sys.modules
