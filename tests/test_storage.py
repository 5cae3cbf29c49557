import dataclasses
import io
import zipfile
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
from small_study import STEPS, WEIGHTS, both_repeats, the_context, with_study

from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.run.storage import DamagedError, Identity, from_npz, to_npz
from cnnsim_tf.steps.arrays import Array, declared, wrong_with
from cnnsim_tf.steps.noising import NoisingResult
from cnnsim_tf.steps.similarity.repeat import SimilarityResult
from cnnsim_tf.steps.step import passing, stored_fields, without_passing
from cnnsim_tf.steps.subset_training import SubsetTrainingResult
from cnnsim_tf.steps.warmstart.repeat import WarmstartResult


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights(count):
    return {name: numbers(count, *shape, seed=i) for i, (name, shape) in enumerate(WEIGHTS.items())}


def results():
    """Return a result of every step as it comes out of a repeat."""
    return [
        NoisingResult(
            subsets=np.arange(60, dtype=np.int32).reshape(6, 10),
            digests=np.array([f"{d:064x}" for d in range(6)]),
            statistics=numbers(6, 6).astype(np.float64),
            clean=numbers(6, 6, 28, 28),
            noised=numbers(6, 6, 28, 28, seed=1),
        ),
        SubsetTrainingResult(
            weights=weights(6),
            epoch_loss=numbers(6, 2),
            epoch_accuracy=numbers(6, 2, seed=1),
            test_loss=numbers(6, 7),
            test_accuracy=numbers(6, 7, seed=1),
        ),
        SimilarityResult(
            scores=numbers(3, 10, 15),
            partners=np.arange(450).reshape(3, 10, 15) % 10,
            pairs=np.arange(30).reshape(3, 10) % 15,
            least_pairs=np.arange(30).reshape(3, 10) % 14,
            sides=np.arange(10) % 2,
            donors=np.arange(30).reshape(3, 10) % 6,
            fresh_scores=numbers(3, 10, 15, seed=1),
            layer_scores=numbers(4, 4, 15),
            fresh_layer_scores=np.full((4, 4, 15), np.nan, np.float32),
            layer_reasons=np.where(np.arange(480).reshape(2, 4, 4, 15) % 2, "", "no variance"),
            aligned=weights(6),
        ),
        WarmstartResult(
            initial=weights(4),
            final={name: w + 1 for name, w in weights(4).items()},
            epoch_loss=numbers(4, 1),
            points=np.array([50, 100, 938]),
            train_loss=numbers(4, 3),
            test_loss=numbers(4, 3, seed=1),
            test_accuracy=numbers(4, 3, seed=2),
            start_loss=numbers(4),
            start_accuracy=numbers(4, seed=1),
            noise_loss=numbers(4, 6),
            noise_accuracy=numbers(4, 6, seed=1),
            dead=np.arange(32).reshape(2, 4, 4),
            activation_mean=numbers(2, 4, 4),
            activation_sd=numbers(2, 4, 4, seed=1),
            gradient_norms=numbers(4, 10, 4).astype(np.float64),
        ),
    ]


every_step = pytest.mark.parametrize("result", results(), ids=STEPS)


@dataclass(frozen=True)
class Passing:
    numbers: np.ndarray
    images: tuple[np.ndarray, ...] = passing(())


@dataclass(frozen=True)
class Small:
    numbers: np.ndarray
    layers: dict[str, np.ndarray]
    names: np.ndarray


def small():
    return Small(numbers(3, 4), {"b/kernel": numbers(2), "a": numbers(2, 2)}, np.array(["a", "bcd"]))


def assert_same(a, b):
    assert type(a) is type(b)
    for field in stored_fields(type(a)):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert type(one) is type(other)
        if isinstance(one, dict):
            assert list(one) == list(other)
            one, other = list(one.values()), list(other.values())
        for x, y in zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]:
            assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())


@every_step
def test_a_result_comes_back_bit_for_bit(result):
    assert_same(from_npz(type(result), to_npz(result)), result)


def test_what_is_only_passed_on_is_not_stored():
    result = Passing(numbers(3), (numbers(100),))
    assert to_npz(result) == to_npz(Passing(numbers(3)))
    assert from_npz(Passing, to_npz(result)).images == without_passing(result).images == ()
    assert without_passing(result).numbers is result.numbers


@every_step
def test_an_npz_holds_plain_arrays_that_numpy_reads_without_pickle(result):
    content = to_npz(result)
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "fiU" for name in file.files)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())


@pytest.mark.parametrize("name", STEPS)
def test_equal_results_give_equal_bytes(name):
    i = STEPS.index(name)
    assert to_npz(results()[i]) == to_npz(results()[i])


def test_donors_that_were_not_aligned_come_back_as_none():
    similarity = dataclasses.replace(results()[2], aligned={})
    assert from_npz(SimilarityResult, to_npz(similarity)).aligned == {}


def test_a_reader_without_this_code_finds_arrays_under_their_names():
    with np.load(io.BytesIO(to_npz(results()[3]))) as file:
        arrays = dict(file)
    weights_names = [f"{when}/{name}" for when in ("initial", "final") for name in WEIGHTS]
    others = [f.name for f in dataclasses.fields(WarmstartResult) if f.name not in ("initial", "final")]
    assert list(arrays) == [*weights_names, *others, "sha256"]
    np.testing.assert_array_equal(arrays["initial/conv2/kernel"], weights(4)["conv2/kernel"])
    np.testing.assert_array_equal(arrays["final/logits/bias"], weights(4)["logits/bias"] + 1)


@dataclass(frozen=True)
class Alike:
    weight: np.ndarray
    weights: dict[str, np.ndarray]
    weights_too: dict[str, np.ndarray]


def test_names_that_begin_alike_are_not_mixed_up():
    result = Alike(numbers(1), {"a": numbers(2), "too/a": numbers(3)}, {"a": numbers(4)})
    assert_same(from_npz(Alike, to_npz(result)), result)


@every_step
def test_a_file_that_lacks_an_array_is_damaged_and_the_array_named(result):
    """Also where its digest is right, as that of a file of an earlier form is."""
    for lacking in stored_fields(type(result)):
        if lacking.default_factory is not dict:
            kept = [(f.name, f.type) for f in stored_fields(type(result)) if f.name != lacking.name]
            earlier = dataclasses.make_dataclass("Earlier", kept)
            content = to_npz(earlier(*(getattr(result, name) for name, _ in kept)))
            with pytest.raises(DamagedError, match=f"^it has no {lacking.name}$"):
                from_npz(type(result), content)


def test_infinite_numbers_nan_and_negative_zero_come_back():
    result = Small(np.array([np.nan, np.inf, -np.inf, -0.0]), {"ß": np.zeros(0)}, np.array(["", "ß"]))
    assert_same(from_npz(Small, to_npz(result)), result)


def test_the_order_of_many_arrays_comes_back():
    names = [f"layer{i}" for i in np.random.default_rng(0).permutation(150)]
    result = Small(np.zeros(1), {name: np.zeros(1) for name in names}, np.array(["x"]))
    assert list(from_npz(Small, to_npz(result)).layers) == names


@every_step
def test_a_truncated_file_is_damaged(result):
    content = to_npz(result)
    for length in (0, 1, 10, 100, len(content) // 3, len(content) // 2, len(content) - 30, len(content) - 1):
        with pytest.raises(DamagedError) as caught:
            from_npz(type(result), content[:length])
        assert str(caught.value)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_wherever_a_byte_is_flipped_the_file_is_damaged_or_gives_the_same_result(flip):
    result = small()
    content = to_npz(result)
    damaged = 0
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= flip
        try:
            read = from_npz(Small, bytes(changed))
        except DamagedError:
            damaged += 1
        else:
            assert_same(read, result)
    assert damaged > len(content) / 2


@pytest.mark.parametrize("content", [b"", b"PK", b"not an npz at all" * 20, b"\0" * 1000], ids=["", "PK", "text", "0"])
def test_what_is_no_npz_is_damaged(content):
    with pytest.raises(DamagedError):
        from_npz(SimilarityResult, content)


def test_a_repeat_that_would_unpack_to_much_more_than_a_repeat_is_not_unpacked():
    file = io.BytesIO()
    np.savez_compressed(file, values=np.zeros(10_000_000))
    with pytest.raises(DamagedError, match="unpack"):
        from_npz(SimilarityResult, file.getvalue())


@every_step
def test_a_result_of_another_step_is_damaged(result):
    for other in (r for r in results() if type(r) is not type(result)):
        with pytest.raises(DamagedError, match=r"^it has no "):
            from_npz(type(other), to_npz(result))


def test_a_single_array_without_a_name_is_damaged():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    with pytest.raises(DamagedError):
        from_npz(Small, buffer.getvalue())


def test_pickled_objects_are_not_read():
    buffer = io.BytesIO()
    np.savez(buffer, numbers=np.array([{}], dtype=object), names=np.array(["a"]), **{"layers/a": np.zeros(1)})
    with pytest.raises(DamagedError):
        from_npz(Small, buffer.getvalue())


def test_two_arrays_that_changed_names_are_damage():
    result = results()[1]
    with np.load(io.BytesIO(to_npz(result))) as file:
        arrays = dict(file)
    arrays["epoch_loss"], arrays["epoch_accuracy"] = arrays["epoch_accuracy"], arrays["epoch_loss"]
    order = [{"epoch_loss": "epoch_accuracy", "epoch_accuracy": "epoch_loss"}.get(name, name) for name in arrays]
    swapped = io.BytesIO()
    np.savez_compressed(swapped, **{name: arrays[name] for name in order})  # the same arrays in the same order
    with pytest.raises(DamagedError, match="not what was written"):
        from_npz(SubsetTrainingResult, swapped.getvalue())


def test_what_is_no_array_of_numbers_or_text_is_not_stored():
    for values in (np.array([{}]), object(), [print], None):
        with pytest.raises(TypeError, match="numbers is no array of numbers or text"):
            to_npz(Passing(values))


# --- whose it is -----------------------------------------------------------------------------------------------------

OWN = Identity("noising", 2, "0f" * 32)


def test_a_file_says_whose_repeat_it_is():
    content = to_npz(small(), OWN)
    with np.load(io.BytesIO(content)) as file:
        assert file["identity"].tolist() == ["noising", "2", "0f" * 32]
    assert_same(from_npz(Small, content, OWN), small())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (dataclasses.replace(OWN, step="similarity"), "it is repeat 2 of the step similarity"),
        (dataclasses.replace(OWN, repeat=20), "it is repeat 20 of the step noising"),
        (dataclasses.replace(OWN, recipe="f0" * 32), "with the recipe f0f0f0f0f0f0$"),
        (None, "it does not say which repeat it is"),
    ],
)
def test_another_repeat_in_its_place_is_damage(other, said):
    with pytest.raises(DamagedError, match=said):
        from_npz(Small, to_npz(small(), other), OWN)


# --- what it must be -------------------------------------------------------------------------------------------------


def looked_through(name, context=None, **changed):
    """Return how a repeat of the small study reads that was stored, digest and all, with other values in its fields."""
    step = PIPELINE[name].code
    stored = to_npz(dataclasses.replace(of_small_repeat(name), **changed))
    return from_npz(step.Result, stored, None, step.sizes(context or the_context()))


def of_small_repeat(name):
    return both_repeats()[0][0][name]


def of_small(name, field):
    return getattr(of_small_repeat(name), field)


def with_value(array, value):
    changed = array.copy()
    changed.flat[-1] = value
    return changed


FIELDS = [(name, f.name) for name in STEPS for f in stored_fields(PIPELINE[name].code.Result)]
ARRAYS = [(name, field) for name, field in FIELDS if field not in ("weights", "aligned", "initial", "final")]
FLOATS = [(name, f) for name, f in ARRAYS if declared(PIPELINE[name].code.Result)[f].dtype in (np.float32, np.float64)]
MAY_NOT_BE_FINITE = {"layer_scores", "fresh_layer_scores", "activation_mean", "activation_sd", "gradient_norms"}


@pytest.mark.parametrize("name", STEPS)
def test_what_a_step_computes_is_what_it_declares(name):
    assert_same(looked_through(name), of_small_repeat(name))


@pytest.mark.parametrize(("name", "field"), ARRAYS)
def test_another_shape_or_type_is_damage_whatever_the_digest_says(name, field):
    array = of_small(name, field)
    other = array.astype("S") if array.dtype.kind == "U" else array.astype(np.float16)
    for wrong in (array[..., None], array[:-1], other):
        with pytest.raises(DamagedError, match=rf"^{field} (has the shape|is of the type) "):
            looked_through(name, **{field: wrong})


@pytest.mark.parametrize(("name", "field"), FLOATS)
def test_numbers_are_finite_but_where_they_need_not_be(name, field):
    changed = {field: with_value(of_small(name, field), np.nan)}
    if field in MAY_NOT_BE_FINITE or field.endswith("loss"):
        looked_through(name, **changed)
    else:
        with pytest.raises(DamagedError, match=f"^{field} has values that are not finite$"):
            looked_through(name, **changed)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("noising", "subsets", 600),
        ("noising", "subsets", -1),
        ("noising", "digests", "g" * 64),
        ("noising", "statistics", 100.5),
        ("noising", "clean", 1.5),
        ("subset_training", "epoch_loss", -0.1),
        ("subset_training", "epoch_accuracy", 99.5),  # of 100 images
        ("subset_training", "test_accuracy", 99.9),  # of 200
        ("subset_training", "test_accuracy", 100.5),
        ("similarity", "partners", 10),
        ("similarity", "pairs", 15),
        ("similarity", "least_pairs", -1),
        ("similarity", "sides", 2),
        ("similarity", "donors", 6),
        ("similarity", "scores", -0.5),  # a distance
        ("similarity", "layer_scores", 1.5),  # a correlation
        ("warmstart", "points", 18),
        ("warmstart", "start_accuracy", -0.5),
        ("warmstart", "noise_accuracy", 12.3),
        ("warmstart", "dead", 11),  # of ten logits
        ("warmstart", "activation_sd", -1),
        ("warmstart", "gradient_norms", -1),
    ],
)
def test_a_value_that_cannot_be_is_damage_whatever_the_digest_says(name, field, value):
    with pytest.raises(DamagedError, match=rf"^{field} has .*{value}"):
        looked_through(name, **{field: with_value(of_small(name, field), value)})


def test_weights_are_those_of_the_cnn_in_its_order():
    weights = of_small("subset_training", "weights")
    turned = dict(reversed(weights.items()))
    for wrong, said in (
        (turned, "its arrays are in another order"),
        (weights | {"conv3/kernel": weights["conv1/kernel"]}, "it has 'weights/conv3/kernel', which does not belong"),
        ({n: w for n, w in weights.items() if n != "conv2/bias"}, "it has no weights/conv2/bias"),
        (weights | {"conv2/bias": weights["conv1/bias"]}, r"weights/conv2/bias has the shape \(6, 2\) instead of"),
        (weights | {"conv2/bias": weights["conv2/bias"] * np.inf}, "weights/conv2/bias has values that are not finite"),
    ):
        with pytest.raises(DamagedError, match=f"^{said}"):
            looked_through("subset_training", weights=wrong)


def test_donors_are_aligned_where_the_study_aligns_them():
    with pytest.raises(DamagedError, match="it has no aligned/conv1/kernel"):
        looked_through("similarity", with_study(align="network"))
    weights = of_small("subset_training", "weights")
    looked_through("similarity", with_study(align="network"), aligned=weights)
    with pytest.raises(DamagedError, match="'aligned/conv1/kernel', which does not belong there"):
        looked_through("similarity", aligned=weights)


@dataclass(frozen=True)
class Undeclared:
    declared: Annotated[np.ndarray, Array("2", np.float64)]
    numbers: np.ndarray


def test_an_array_that_nothing_is_declared_of_is_not_believed():
    arrays = {"declared": np.zeros(2), "numbers": np.zeros(2)}
    assert wrong_with(Undeclared, arrays, {}) == "it has 'numbers', which does not belong there"
