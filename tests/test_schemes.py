import numpy as np
import pytest

from cnnsim_tf.cnn import build, fresh_weights
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.filters import conv_kernels
from cnnsim_tf.schemes import BASELINE, SCHEMES, Ingredients, Variant, make_weights, parse_variant

MEASURES = ("cosine", "pearson", "frobenius")
DONORS = 6


def my_measure(a, b):
    return -np.abs(a - b).max(-1)


def my_scheme(ingredients):
    return [np.zeros_like(w) for w in ingredients.fresh]


OWN_MEASURE, OWN_SCHEME = f"{__name__}:my_measure", f"{__name__}:my_scheme"


@pytest.fixture(scope="module")
def parts():
    """Return fresh weights, donors' weights [D, ...] and the kernels."""
    fresh = fresh_weights("reference", 12, 10, 0)
    donors = [
        np.stack(w) for w in zip(*(fresh_weights("reference", 12, 10, 1 + d) for d in range(DONORS)), strict=True)
    ]
    return fresh, donors, conv_kernels(build("reference", 12, 10))


def ingredients(parts, chosen):
    return Ingredients(*parts, chosen, np.random.default_rng(0))


def made(parts, scheme, chosen):
    return SCHEMES.get(scheme)(ingredients(parts, chosen))


def test_random_init_gives_copies_of_the_fresh_weights(parts):
    for weight, fresh in zip(made(parts, "random_init", None), parts[0], strict=True):
        assert weight.tobytes() == fresh.tobytes()
        assert not np.shares_memory(weight, fresh)


@pytest.mark.parametrize("seed", range(5))
def test_transplant_takes_every_filter_from_its_chosen_donor(parts, seed):
    chosen = np.random.default_rng(seed).integers(0, DONORS, 10)
    weights, donors = made(parts, "transplant", chosen), parts[1]
    f = 0
    for position in (0, 2):  # the kernels of conv1 and conv2
        for out in range(weights[position].shape[3]):
            for channel_in in range(weights[position].shape[2]):
                expected = donors[position][chosen[f], :, :, channel_in, out]
                np.testing.assert_array_equal(weights[position][:, :, channel_in, out], expected)
                f += 1
    assert f == 10


def test_transplant_leaves_biases_and_dense_layers_fresh_bit_for_bit(parts):
    weights = made(parts, "transplant", np.arange(10) % DONORS)
    for position in (1, 3, 4, 5, 6, 7):
        assert weights[position].tobytes() == parts[0][position].tobytes()
        assert not np.shares_memory(weights[position], parts[0][position])


@pytest.mark.parametrize("donor", range(DONORS))
def test_transplanting_from_one_donor_alone_gives_its_kernels(parts, donor):
    weights = made(parts, "transplant", np.full(10, donor))
    for position in (0, 2):
        assert weights[position].tobytes() == np.ascontiguousarray(parts[1][position][donor]).tobytes()


@pytest.mark.parametrize("scheme", ["random_init", "transplant"])
def test_weights_keep_their_shapes_and_type_and_their_sources_stay_as_they_are(parts, scheme):
    before = [w.copy() for w in (*parts[0], *parts[1])]
    weights = made(parts, scheme, np.zeros(10, int))
    assert [(w.shape, w.dtype) for w in weights] == [(w.shape, w.dtype) for w in parts[0]]
    for weight, original in zip((*parts[0], *parts[1]), before, strict=True):
        np.testing.assert_array_equal(weight, original)


def test_transplant_without_a_measure_is_refused(parts):
    with pytest.raises(ParameterError, match=r"measure\+transplant"):
        made(parts, "transplant", None)


# --- names of variants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("random_init", Variant("random_init", None, "random_init")),
        ("cosine", Variant("cosine", "cosine", "transplant")),
        ("frobenius+transplant", Variant("frobenius+transplant", "frobenius", "transplant")),
        (f"pearson+{OWN_SCHEME}", Variant(f"pearson+{OWN_SCHEME}", "pearson", OWN_SCHEME)),
        (OWN_MEASURE, Variant(OWN_MEASURE, OWN_MEASURE, "transplant")),
        (f"{OWN_MEASURE}+{OWN_SCHEME}", Variant(f"{OWN_MEASURE}+{OWN_SCHEME}", OWN_MEASURE, OWN_SCHEME)),
    ],
)
def test_a_variants_name_is_the_baseline_a_measure_or_measure_plus_scheme(name, variant):
    assert parse_variant(name, (*MEASURES, OWN_MEASURE)) == variant


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("transplant", "the variant 'transplant' needs a measure: write cosine+transplant, or cosine"),
        ("cosin", "unknown variant 'cosin': did you mean 'cosine'? known are random_init, cosine, pearson, frobenius"),
        ("random", "unknown variant 'random': did you mean 'random_init'?"),
        ("xyzzy", "unknown variant 'xyzzy': known are random_init, cosine, pearson, frobenius, and measure+scheme"),
        ("cosin+transplant", "unknown measure 'cosin': did you mean 'cosine'?"),
        (
            "cosine+transplan",
            "unknown scheme 'transplan': did you mean 'transplant'? known are random_init, transplant",
        ),
        ("cosine+", "unknown scheme ''"),
        ("+transplant", "unknown measure ''"),
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


@pytest.mark.parametrize("name", ["frobenius", "frobenius+transplant"])
def test_a_variant_whose_measure_is_not_among_the_studys_measures_is_refused(name):
    with pytest.raises(ParameterError, match="needs the measure 'frobenius', but measures is cosine,pearson: add it"):
        parse_variant(name, ("cosine", "pearson"))


def test_the_baseline_needs_no_measure():
    assert parse_variant(BASELINE, ()).measure is None


def test_a_measure_with_the_baselines_scheme_is_refused():
    with pytest.raises(ParameterError, match="random_init makes no use: write random_init"):
        parse_variant("cosine+random_init", ["cosine"])


def one_weight_too_few(ingredients):
    return list(ingredients.fresh)[1:]


def not_a_number(ingredients):
    return [np.full_like(w, np.nan) for w in ingredients.fresh]


@pytest.mark.parametrize("scheme", [one_weight_too_few, not_a_number])
def test_a_users_scheme_that_returns_something_else_than_weights_is_refused(scheme):
    fresh = [np.zeros((2, 2), np.float32), np.zeros(2, np.float32)]
    ingredients = Ingredients(fresh, [], [], None, np.random.default_rng(0))
    with pytest.raises(StudyError, match="it must return finite weights of shapes"):
        make_weights(f"{__name__}:{scheme.__name__}", ingredients)
