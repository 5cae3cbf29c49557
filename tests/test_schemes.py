"""What holds for every scheme; the baseline, the published scheme and the controls."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scheme_kit import DONORS, FILTERS, KERNELS, filters, from_one_donor_each, ingredients, unmatched

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.schemes import (
    SCHEMES,
    Choice,
    Ingredients,
    Scheme,
    drawn_filters,
    get_scheme,
    make_weights,
    random_init,
    transplant,
)

SETS_ALL = {"full_donor", "aligned_mean", "shrink_perturb", "shrink_perturb_fresh", "dash"}
# Positions in Keras's order of what is set beside the conv kernels.
SETS = {
    "with_biases": (1, 3),
    "centred": (1, 3, 5),
    "centred_fresh": (1, 3, 5),
    "centred_random_donor": (1, 3, 5),
    "centred_one_donor": (1, 3, 5),
    "centred_medoid_donor": (1, 3, 5),
    "centred_best_donor": (1, 3, 5),
    "calibrated": (1, 3, 4, 5),
}
NEED_MEASURE = [name for name in SCHEMES if get_scheme(name).needs_measure]
SEEDS = range(5)


def same_donors(seed):
    """Return ingredients whose donors are all the same network."""
    given = ingredients(seed)
    return replace(given, donors=[np.repeat(w[:1], DONORS, 0) for w in given.donors])


# --- every scheme ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_makes_finite_weights_of_the_cnns_shapes_and_leaves_its_sources_as_they_are(scheme):
    given = ingredients()
    before = [w.copy() for w in (*given.fresh, *given.donors)]
    weights = make_weights(scheme, given)
    assert [(w.shape, w.dtype) for w in weights] == [(w.shape, np.float32) for w in given.fresh]
    assert all(np.isfinite(w).all() for w in weights)
    for source, original in zip((*given.fresh, *given.donors), before, strict=True):
        assert source.tobytes() == original.tobytes()
        assert not any(np.shares_memory(source, w) for w in weights)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_the_same_weights_from_the_same_random_state(scheme):
    first, second = make_weights(scheme, ingredients(3)), make_weights(scheme, ingredients(3))
    assert [w.tobytes() for w in first] == [w.tobytes() for w in second]


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s not in SETS_ALL])
def test_what_a_scheme_does_not_set_is_fresh_bit_for_bit(scheme):
    given = ingredients(1)
    made = make_weights(scheme, given)
    changed = {p for p, (a, b) in enumerate(zip(made, given.fresh, strict=True)) if a.tobytes() != b.tobytes()}
    assert changed == {*SETS.get(scheme, ())} | (set() if scheme in ("random_init", "centred_fresh") else set(KERNELS))


@pytest.mark.parametrize("scheme", NEED_MEASURE)
def test_a_scheme_that_needs_a_measure_is_refused_without_one(scheme):
    with pytest.raises(ParameterError, match=r"needs a measure: write the variant as measure\+"):
        make_weights(scheme, ingredients(measure=None))


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s not in NEED_MEASURE])
def test_a_scheme_that_needs_no_measure_makes_no_use_of_one(scheme):
    without = make_weights(scheme, ingredients(measure=None))
    assert [w.tobytes() for w in without] == [w.tobytes() for w in make_weights(scheme, ingredients())]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_says_what_it_is_for(scheme):
    entry = get_scheme(scheme)
    assert entry.kind in ("baseline", "published", "control", "candidate")
    assert 10 < len(entry.summary) < 110
    assert "\n" not in entry.summary
    assert entry.function.__doc__


def test_summaries_are_unlike_each_other():
    assert len({get_scheme(name).summary for name in SCHEMES}) == len(list(SCHEMES))


@pytest.mark.parametrize(
    ("scheme", "lack"),
    [
        ("with_biases", "hidden"),
        ("aligned_mean", "hidden"),
        ("centred", "channel_statistics"),
        ("centred", "layers"),
        ("dash", "gradients"),
        ("centred_best_donor", "losses"),
    ],
)
def test_what_ingredients_lack_is_said(scheme, lack):
    given = ingredients()
    poorer = Ingredients(given.fresh, given.donors, given.kernels, given.rng, given.measure, given.most, given.least)
    others = {
        key: getattr(given, key)
        for key in ("layers", "hidden", "channel_statistics", "losses", "gradients")
        if key != lack
    }
    with pytest.raises(StudyError, match="which these ingredients came without"):
        make_weights(scheme, replace(poorer, **others))


# --- the donors' filters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_drawn_filters_come_from_the_donor_and_the_place_of_the_drawn_side(seed):
    rng = np.random.default_rng(seed)
    first_layer, second_layer = rng.integers(0, 2, (2, 2)), rng.integers(2, FILTERS, (8, 2))
    choice = Choice(
        rng.integers(0, DONORS, (FILTERS, 2)),
        np.concatenate([first_layer, second_layer]),
        rng.integers(0, 2, FILTERS),
    )
    given = ingredients(seed, most=choice)
    every = np.stack([filters([w[d] for w in given.donors]) for d in range(DONORS)])  # [D, F, 3, 3]
    drawn = np.concatenate(drawn_filters(given, choice))
    for f, side in enumerate(choice.side):
        assert drawn[f].tobytes() == every[choice.donors[f, side], choice.positions[f, side]].tobytes()
        assert given.chosen[f] == choice.donors[f, side]


def test_without_a_measure_no_donor_is_chosen():
    assert ingredients(measure=None).chosen is None


# --- baseline and published scheme -----------------------------------------------------------------------------------


def test_random_init_gives_the_fresh_weights():
    given = ingredients()
    assert [w.tobytes() for w in random_init(given)] == [w.tobytes() for w in given.fresh]


@pytest.mark.parametrize("seed", SEEDS)
def test_transplant_takes_every_filter_from_its_chosen_donor(seed):
    chosen = np.random.default_rng(seed).integers(0, DONORS, FILTERS)
    given = ingredients(seed, most=from_one_donor_each(chosen))
    weights, f = transplant(given), 0
    for position in KERNELS:
        for out in range(weights[position].shape[3]):
            for channel_in in range(weights[position].shape[2]):
                expected = given.donors[position][chosen[f], :, :, channel_in, out]
                np.testing.assert_array_equal(weights[position][:, :, channel_in, out], expected)
                f += 1
    assert f == FILTERS


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", ["least_alike", "random_donor", "one_donor", "medoid", "medoid_donor", "pair_mean"])
def test_from_donors_that_are_all_the_same_every_scheme_takes_the_same_filters(scheme, seed):
    given = same_donors(seed)
    assert [w.tobytes() for w in make_weights(scheme, given)] == [w.tobytes() for w in transplant(given)]


# --- controls --------------------------------------------------------------------------------------------------------


def test_least_alike_takes_the_least_alike_pair_and_not_the_most():
    given = ingredients(most=unmatched(np.tile([0, 1], (FILTERS, 1))), least=unmatched(np.tile([4, 5], (FILTERS, 1))))
    np.testing.assert_array_equal(filters(make_weights("least_alike", given)), filters([w[4] for w in given.donors]))


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_keeps_each_filters_entries_and_not_their_places(seed):
    given = ingredients(seed)
    chosen, mixed = filters(transplant(given)), filters(make_weights("shuffled", given))
    for one, other in zip(chosen, mixed, strict=True):
        np.testing.assert_array_equal(np.sort(one.ravel()), np.sort(other.ravel()))
    assert (chosen != mixed).any((1, 2)).all()


def test_shuffled_draws_the_same_permutations_whatever_was_chosen():
    numbered = np.arange(9, dtype=np.float32).reshape(3, 3)
    orders = []
    for scale in (1, 100):
        given = ingredients()
        donors = list(given.donors)
        for position in KERNELS:
            donors[position] = np.broadcast_to(scale * numbered[..., None, None], donors[position].shape)
        orders.append(filters(make_weights("shuffled", replace(given, donors=donors))) / scale)
    np.testing.assert_array_equal(*orders)
    assert len({order.tobytes() for order in orders[0]}) > 1  # each filter has its own


def norm(weights):
    return np.linalg.norm(filters(weights).reshape(FILTERS, -1).astype(np.float64), axis=1)


def cosine(a, b):
    return (filters(a) * filters(b)).sum((1, 2)) / norm(a) / norm(b)


@pytest.mark.parametrize("seed", SEEDS)
def test_norm_matched_has_the_chosen_norms_and_the_fresh_directions(seed):
    given = ingredients(seed)
    weights = make_weights("norm_matched", given)
    np.testing.assert_allclose(norm(weights), norm(transplant(given)), rtol=1e-6)
    np.testing.assert_allclose(cosine(weights, given.fresh), 1, rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_rescaled_has_the_fresh_norms_and_the_chosen_directions(seed):
    given = ingredients(seed)
    weights = make_weights("rescaled", given)
    np.testing.assert_allclose(norm(weights), norm(given.fresh), rtol=1e-6)
    np.testing.assert_allclose(cosine(weights, transplant(given)), 1, rtol=1e-6)


@pytest.mark.parametrize(("scheme", "without"), [("norm_matched", "fresh"), ("rescaled", "donors")])
def test_a_filter_of_zeros_has_no_direction_and_stays(scheme, without):
    given = ingredients()
    zeros = [np.zeros_like(w) for w in getattr(given, without)]
    weights = make_weights(scheme, replace(given, **{without: zeros}))
    assert not filters(weights).any()


def donors_of(weights, given):
    """Return which donor each filter is of, [F]."""
    every = np.stack([filters([w[d] for w in given.donors]) for d in range(DONORS)])
    return (every == filters(weights)).all((2, 3)).argmax(0)


def test_random_donor_takes_every_donor_as_often_for_every_filter():
    counts = np.zeros((FILTERS, DONORS))
    given = ingredients()
    for seed in range(600):
        drawn = make_weights("random_donor", replace(given, rng=np.random.default_rng(seed)))
        counts[np.arange(FILTERS), donors_of(drawn, given)] += 1
    # 100 expected, sd 9.1: five of them to each side for 60 counts
    assert (abs(counts - 100) < 46).all()


def test_one_donor_and_all_that_build_on_one_donor_draw_the_same_donor():
    drawn = set()
    for seed in range(20):
        given = ingredients(seed)
        full = make_weights("full_donor", given)
        donor = next(d for d in range(DONORS) if (given.donors[0][d] == full[0]).all())
        drawn.add(donor)
        assert all((w == all_donors[donor]).all() for w, all_donors in zip(full, given.donors, strict=True))
        one = make_weights("one_donor", ingredients(seed))
        assert (donors_of(one, given) == donor).all()
        half = make_weights("shrink_perturb_fresh", ingredients(seed, fresh=[np.zeros_like(w) for w in given.fresh]))
        assert all(np.allclose(a, 0.4 * b, rtol=1e-6) for a, b in zip(half, full, strict=True))
    assert drawn == set(range(DONORS))


# --- a user's own ----------------------------------------------------------------------------------------------------


RETURNED = {
    "None": (lambda fresh: None, "None"),
    "text": (lambda fresh: "weights", "'weights' (str)"),
    "a dict": (lambda fresh: dict(enumerate(fresh)), "(dict)"),
    "one array": (lambda fresh: fresh[0], "an array of float32 of shape (2, 2)"),
    "one too many": (lambda fresh: [*fresh, fresh[0]], "3 arrays"),
    "without end": (lambda fresh: itertools.repeat(fresh[0]), "3 arrays"),
    "another shape": (lambda fresh: [fresh[0], fresh[0]], "an array of float32 of shape (2, 2) as weight 2"),
    "texts of numbers": (lambda fresh: [w.astype(str) for w in fresh], "<U32 of shape (2, 2) as weight 1"),
    "complex": (lambda fresh: [w * 1j for w in fresh], "an array of complex64 of shape (2, 2) as weight 1"),
    "masks": (lambda fresh: [w == 0 for w in fresh], "an array of bool"),
    "Nones": (lambda fresh: [fresh[0], None], "None as weight 2"),
    "ragged": (lambda fresh: [[[0, 0], [0]], fresh[1]], "(list) as weight 1"),
    "one too few": (lambda fresh: fresh[1:], "1 arrays"),
    "not a number": (lambda fresh: [np.full_like(w, np.nan) for w in fresh], "finite"),
    "too large": (lambda fresh: [np.full(w.shape, 1e300) for w in fresh], "finite"),
}


def given_back(ingredients):
    return ingredients.donors[0](ingredients.fresh)


@pytest.mark.parametrize("kind", RETURNED)
def test_a_users_scheme_is_told_what_it_returned(kind):
    function, words = RETURNED[kind]
    fresh = [np.zeros((2, 2), np.float32), np.zeros(2, np.float32)]
    with pytest.raises(StudyError) as caught:
        make_weights(f"{__name__}:given_back", Ingredients(fresh, [function], [], np.random.default_rng(0)))
    assert str(caught.value).startswith(f"the scheme '{__name__}:given_back' returned ") and words in str(caught.value)
    assert "it must return finite weights of shapes [(2, 2), (2,)]" in str(caught.value)


def zeros(ingredients):
    return [np.zeros_like(w) for w in ingredients.fresh]


ZEROS = Scheme(zeros, needs_measure=False, summary="nothing")


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_says_from_how_many_donors_its_weights_are(name):
    """Weights of donors are changed one donor at a time: on how many of them does the outcome depend?

    Each becomes another one, or the mean of all, which is the most alike to them.
    """

    def made(donors):
        return np.concatenate([w.ravel() for w in make_weights(name, replace(plain, rng=generator(), donors=donors))])

    def generator():
        return np.random.default_rng(5)

    plain = ingredients(3)
    before, matter = made(plain.donors), 0
    for d in range(DONORS):
        outcomes = []
        for change in (lambda w, d: 1.5 * w[d] + 0.01, lambda w, d: w.mean(0)):
            changed = [w.copy() for w in plain.donors]
            for w in changed:
                w[d] = change(w, d)
            outcomes.append(made(changed))
        matter += not all(np.array_equal(outcome, before) for outcome in outcomes)
    assert {"none": matter == 0, "one": matter == 1, "all": matter > 1}[get_scheme(name).donors]


def test_a_users_function_needs_a_measure_and_a_users_scheme_says_whether_it_does():
    assert get_scheme(f"{__name__}:zeros") == Scheme(zeros, needs_measure=True)
    assert get_scheme(f"{__name__}:ZEROS") is ZEROS
    assert not any(w.any() for w in make_weights(f"{__name__}:ZEROS", ingredients()))
