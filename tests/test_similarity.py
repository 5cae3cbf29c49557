"""What the similarity step computes, with and without alignment."""

import dataclasses

import keras
import numpy as np
import pytest
from scheme_kit import preactivations
from small_study import (
    COMPUTING,
    DONORS,
    LAYER_MEASURES,
    LAYERS,
    MEASURES,
    PAIRS,
    WEIGHTS,
    both_repeats,
    filters_of,
    network,
    the_context,
    with_study,
)

from cnnsim_tf.alignment import match_filters
from cnnsim_tf.datasets import load
from cnnsim_tf.filters import to_filters
from cnnsim_tf.layer_measures import get_layer_measure
from cnnsim_tf.measures import filter_scores
from cnnsim_tf.models import fresh_weights
from cnnsim_tf.seeds import integer_seed
from cnnsim_tf.steps.similarity.repeat import check, choice_of
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.subset_training import SubsetTrainingResult
from cnnsim_tf.steps.warmstart.repeat import initial_weights
from cnnsim_tf.study import Study

similarity = COMPUTING["similarity"]
CKA = ("linear_cka", "debiased_cka")  # the first two layer measures, and the fast ones


def larger(measure):
    return measure != "frobenius"


def score(measure, a, b):
    return float(filter_scores(measure, a, b))


def donors_filters(weights):
    return [filters_of(network(weights, d)) for d in range(DONORS)]


@pytest.fixture(scope="module")
def repeats():
    return both_repeats()[0]


@pytest.fixture(scope="module")
def fresh():
    """The donors of repeat 1 before their training, by name, each [D, ...]."""
    made = [fresh_weights("reference", 28, 10, integer_seed(0, 1, f"donor {d + 1} weights")) for d in range(DONORS)]
    return {name: np.stack(w) for name, w in zip(WEIGHTS, zip(*made, strict=True), strict=True)}


@pytest.fixture(scope="module")
def results(repeats):
    """Repeat 1 by the way of aligning."""
    made = {"none": repeats[0]["similarity"]}
    for align in ("filters", "network"):
        made[align] = similarity.compute(
            with_study(align=align, layer_measures=CKA), 1, dict(repeats[0]), lambda images: None
        )
    return made


# --- not aligned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", range(3), ids=MEASURES)
def test_scores_and_choices_are_those_of_a_loop_over_filters_and_pairs(m, repeats):
    result = repeats[0]["similarity"]
    donors = donors_filters(repeats[0]["subset_training"].weights)
    for f in range(10):
        scores = [score(MEASURES[m], donors[i][f], donors[j][f]) for i, j in PAIRS]
        np.testing.assert_allclose(result.scores[m, f], scores, rtol=1e-5, atol=1e-7)
        most, least = (max, min) if larger(MEASURES[m]) else (min, max)
        assert result.scores[m, f, result.pairs[m, f]] == most(result.scores[m, f])
        assert result.scores[m, f, result.least_pairs[m, f]] == least(result.scores[m, f])
        assert (result.partners[m, f] == f).all()


def test_the_donor_is_the_one_of_its_pair_that_its_filters_side_says_by_every_measure(repeats):
    for results in repeats:
        result = results["similarity"]
        assert set(result.sides) == {0, 1}
        for m in range(3):
            assert result.donors[m].tolist() == [
                PAIRS[p][side] for p, side in zip(result.pairs[m], result.sides, strict=True)
            ]
    assert not np.array_equal(repeats[0]["similarity"].sides, repeats[1]["similarity"].sides)


@pytest.mark.parametrize("m", range(3), ids=MEASURES)
def test_the_null_is_the_score_of_the_donors_before_their_training(m, repeats, fresh):
    result, donors = repeats[0]["similarity"], donors_filters(fresh)
    for f in range(10):
        scores = [score(MEASURES[m], donors[i][f], donors[j][f]) for i, j in PAIRS]
        np.testing.assert_allclose(result.fresh_scores[m, f], scores, rtol=1e-5, atol=1e-7)
    assert not np.array_equal(result.fresh_scores[m], result.scores[m])


@pytest.mark.parametrize("which", ["trained", "untrained"])
def test_layer_scores_are_those_of_direct_calls_on_what_the_layers_give_for_clean_test_images(which, repeats, fresh):
    result = repeats[0]["similarity"]
    weights = repeats[0]["subset_training"].weights if which == "trained" else fresh
    found = result.layer_scores if which == "trained" else result.fresh_layer_scores
    reasons = result.layer_reasons[0 if which == "trained" else 1]
    images = the_context().test_images  # 200, fewer than the 500 that are looked at
    given = []
    for d in range(DONORS):
        values = preactivations(network(weights, d), images)
        given.append([*(np.maximum(v, 0) for v in values[:3]), values[3]])  # the logits have no ReLU
    defined = 0
    assert (np.isnan(found) == (reasons != "")).all()
    for n, name in enumerate(LAYER_MEASURES):
        for layer in range(LAYERS):
            for p, (i, j) in [(0, PAIRS[0]), (8, PAIRS[8]), (14, PAIRS[14])]:
                if not reasons[n, layer, p]:
                    expected = get_layer_measure(name)(given[i][layer], given[j][layer])
                    assert found[n, layer, p] == pytest.approx(expected, rel=2e-3, abs=2e-4)
                    defined += 1
    assert defined >= 3 * 4 * LAYERS - 6


def test_a_donor_whose_layer_gives_nothing_has_no_layer_scores_and_the_reason_is_kept(repeats):
    donors = repeats[0]["subset_training"]
    dead = {name: w.copy() for name, w in donors.weights.items()}
    dead["dense1/kernel"][2], dead["dense1/bias"][2] = 0, -1  # donor 3's hidden dense layer gives 0 for every image
    changed = {"subset_training": dataclasses.replace(donors, weights=dead)}
    result = similarity.compute(with_study(layer_measures=CKA), 1, changed, lambda images: None)
    layer, with_it = 2, np.array([2 in pair for pair in PAIRS])
    cka = LAYER_MEASURES.index("linear_cka")
    assert np.isnan(result.layer_scores[cka, layer]).tolist() == with_it.tolist()
    assert [bool(r) for r in result.layer_reasons[0, cka, layer]] == with_it.tolist()
    assert "donor 3" in result.layer_reasons[0, cka, layer][with_it][0]
    assert not any(result.layer_reasons[1, cka].ravel())


def test_a_choice_names_the_pairs_donors_and_positions_and_the_drawn_side(repeats):
    result = repeats[0]["similarity"]
    for m in range(3):
        for least, pairs in ((False, result.pairs), (True, result.least_pairs)):
            choice = choice_of(result, m, DONORS, least=least)
            assert choice.donors.tolist() == [list(PAIRS[p]) for p in pairs[m]]
            assert choice.positions.tolist() == [[f, f] for f in range(10)]
            assert choice.side.tolist() == result.sides.tolist()


# --- filters matched with those of other positions -------------------------------------------------------------------


@pytest.mark.parametrize("m", range(3), ids=MEASURES)
def test_filters_are_matched_within_their_layer_of_trained_and_of_untrained_donors(m, results, repeats, fresh):
    result, kernels = results["filters"], the_context().kernels
    trained = list(repeats[0]["subset_training"].weights.values())
    scores, partners = match_filters(MEASURES[m], to_filters(trained, kernels))
    np.testing.assert_array_equal(result.scores[m], scores)
    np.testing.assert_array_equal(result.partners[m], partners + np.array([0] * 2 + [2] * 8)[:, None])
    assert (result.partners[m] != np.arange(10)[:, None]).any()
    null, _ = match_filters(MEASURES[m], to_filters(list(fresh.values()), kernels))
    np.testing.assert_array_equal(result.fresh_scores[m], null)


@pytest.mark.parametrize("m", range(3), ids=MEASURES)
@pytest.mark.parametrize("scheme", ["transplant", "least_alike"])
def test_a_matched_choice_takes_the_partner_from_the_second_donor(m, scheme, results, repeats):
    result, donors = results["filters"], donors_filters(repeats[0]["subset_training"].weights)
    pairs = (result.pairs if scheme == "transplant" else result.least_pairs)[m]
    context = with_study(align="filters", variants=(f"{MEASURES[m]}+{scheme}",))
    target = (the_context().test_images, the_context().dataset.y_test, np.arange(200))
    initial = initial_weights(context, 1, repeats[0]["subset_training"], result, target)
    made = filters_of(network(context.named(initial), 0))
    elsewhere = 0
    for f, pair in enumerate(pairs):
        side = result.sides[f]
        position = f if side == 0 else result.partners[m, f, pair]
        elsewhere += position != f
        np.testing.assert_array_equal(made[f], donors[PAIRS[pair][side]][position])
    assert elsewhere > 0


# --- whole donors aligned --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", range(3), ids=MEASURES)
def test_scores_and_schemes_are_those_of_the_aligned_donors(m, results, repeats):
    result = results["network"]
    donors = donors_filters(result.aligned)
    for f in range(10):
        scores = [score(MEASURES[m], donors[i][f], donors[j][f]) for i, j in PAIRS]
        np.testing.assert_allclose(result.scores[m, f], scores, rtol=1e-5, atol=1e-7)
    assert not np.array_equal(result.scores, results["none"].scores)
    for name, weights in repeats[0]["subset_training"].weights.items():
        np.testing.assert_array_equal(result.aligned[name][0], weights[0])
    context = with_study(align="network", variants=(MEASURES[m],))
    target = (the_context().test_images, the_context().dataset.y_test, np.arange(200))
    initial = initial_weights(context, 1, repeats[0]["subset_training"], result, target)
    made = filters_of(network(context.named(initial), 0))
    for f, array in enumerate(made):
        np.testing.assert_array_equal(array, donors[result.donors[m, f]][f])


def test_a_donor_with_swapped_units_is_found_to_be_the_same_once_networks_are_aligned(repeats):
    donors = repeats[0]["subset_training"]
    planted = {name: w.copy() for name, w in donors.weights.items()}
    for w in planted.values():
        w[1] = w[0]
    for name, units in (
        ("conv1/kernel", np.s_[..., ::-1]),
        ("conv1/bias", np.s_[::-1]),
        ("conv2/kernel", np.s_[:, :, ::-1]),
    ):
        planted[name][1] = planted[name][0][units]
    inputs = {"subset_training": dataclasses.replace(donors, weights=planted)}
    alone, aligned = (
        similarity.compute(with_study(align=align, layer_measures=CKA), 1, inputs, lambda images: None).scores[
            :, :, PAIRS.index((0, 1))
        ]
        for align in ("none", "network")
    )
    cosine, frobenius = MEASURES.index("cosine"), MEASURES.index("frobenius")
    np.testing.assert_allclose(aligned[cosine], 1, atol=1e-5)
    np.testing.assert_allclose(aligned[frobenius], 0, atol=1e-4)
    assert alone[frobenius].min() > 0.05


@pytest.mark.parametrize("align", ["filters", "network"])
def test_alignment_changes_neither_the_sides_nor_the_scores_of_layers(align, results):
    np.testing.assert_array_equal(results[align].sides, results["none"].sides)
    for name in ("layer_scores", "fresh_layer_scores"):
        np.testing.assert_array_equal(getattr(results[align], name), getattr(results["none"], name)[:2])


def test_the_null_of_aligned_donors_is_aligned_too(results):
    """Else alignment alone would look like similarity that training brought about."""
    frobenius = MEASURES.index("frobenius")
    assert results["network"].fresh_scores[frobenius].mean() < results["none"].fresh_scores[frobenius].mean()
    assert results["filters"].fresh_scores[frobenius].mean() < results["none"].fresh_scores[frobenius].mean()


# --- what measures cannot do -----------------------------------------------------------------------------------------


def pointwise(side, classes):
    layers = keras.layers
    convolutions = [layers.Conv2D(2, 3, name="conv"), *(layers.Conv2D(2, 1, name=f"mix{i}") for i in range(4))]
    return keras.Sequential(
        [keras.Input((side, side, 1)), *convolutions, layers.GlobalMaxPool2D(), layers.Dense(classes)]
    )


def test_measures_that_see_nothing_in_filters_of_one_weight_are_named():
    measures = ("cosine", "frobenius", "signed_cosine", "pearson")
    (said,) = check(Context(Study(cnn=f"{__name__}:pointwise", measures=measures), load("mnist")))
    assert "1×1 convolutions (mix0, mix1, mix2, …)" in said
    assert "which cosine and pearson cannot tell apart: their scores there say nothing, and pairs are drawn" in said
    assert check(Context(Study(cnn=f"{__name__}:pointwise", measures=("frobenius",)), load("mnist"))) == []
    assert check(Context(Study(measures=measures), load("mnist"))) == []


def test_pairs_of_filters_of_one_weight_are_drawn_where_the_measure_says_nothing():
    study = Study(
        cnn=f"{__name__}:pointwise", measures=("cosine", "frobenius", "pearson"), layer_measures=("linear_cka",)
    )
    context, found = Context(study, load("mnist")), []
    for repeat in range(1, 13):
        each = [fresh_weights(study.cnn, 28, 10, 100 * repeat + d) for d in range(6)]
        weights = [np.stack(w) for w in zip(*each, strict=True)]
        donors = SubsetTrainingResult(context.named(weights), *[np.zeros(0)] * 4)
        found.append(similarity.compute(context, repeat, {"subset_training": donors}, lambda passed: None))
    single = slice(2, None)  # after the two filters of the first layer
    for m, blind in ((0, True), (1, False), (2, True)):
        pairs = np.stack([f.pairs[m] for f in found])[:, single]
        least = np.stack([f.least_pairs[m] for f in found])[:, single]
        best = np.stack([f.scores[m] for f in found]).argmin(-1)[:, single]
        assert (pairs == best).all() == (m == 1)
        if blind:
            assert len(np.unique(pairs)) == len(np.unique(least)) == 15
            assert 0 < (pairs == least).mean() < 0.25
    assert all((f.pairs[0, single] == f.pairs[2, single]).all() for f in found)
