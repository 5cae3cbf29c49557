import dataclasses
import io
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest

from cnnsim_tf.run.storage import DamagedError, from_npz, to_npz
from cnnsim_tf.steps.noising import NoisingResult
from cnnsim_tf.steps.similarity.compute import SimilarityResult
from cnnsim_tf.steps.step import passing, stored_fields, without_passing
from cnnsim_tf.steps.subset_training import SubsetTrainingResult
from cnnsim_tf.steps.warmstart.summary import WarmstartResult

SHAPES = [(3, 3, 1, 2), (2,), (3, 3, 2, 4), (4,), (196, 16), (16,), (16, 10), (10,)]


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights(count):
    return [numbers(count, *shape, seed=i) for i, shape in enumerate(SHAPES)]


def results():
    """Return a result of every step as it comes out of a repeat."""
    return [
        NoisingResult(
            np.arange(60, dtype=np.int32).reshape(6, 10),
            np.array([f"{d:064x}" for d in range(6)]),
            numbers(6, 6).astype(np.float64),
            numbers(6, 6, 28, 28),
            numbers(6, 6, 28, 28, seed=1),
        ),
        SubsetTrainingResult(weights(6), numbers(6, 2), numbers(6, 2), numbers(6, 7), numbers(6, 7)),
        SimilarityResult(
            numbers(3, 10, 15),
            np.arange(450).reshape(3, 10, 15) % 10,
            *(np.arange(30).reshape(3, 10) % n for n in (15, 14)),
            np.arange(10) % 2,
            np.arange(30).reshape(3, 10) % 6,
            numbers(3, 10, 15, seed=1),
            numbers(4, 4, 15),
            np.full((4, 4, 15), np.nan, np.float32),
            np.where(np.arange(480).reshape(2, 4, 4, 15) % 2, "", "no variance"),
            weights(6),
        ),
        WarmstartResult(
            weights(4),
            weights(4),
            numbers(4, 1),
            np.array([50, 100, 938]),
            *(numbers(4, 3, seed=i) for i in range(3)),
            *(numbers(4, seed=i) for i in range(2)),
            *(numbers(4, 6, seed=i) for i in range(2)),
            np.arange(32).reshape(2, 4, 4),
            *(numbers(2, 4, 4, seed=i) for i in range(2)),
            numbers(4, 10, 4).astype(np.float64),
        ),
    ]


NAMES = ["noising", "subset_training", "similarity", "warmstart"]
every_step = pytest.mark.parametrize("result", results(), ids=NAMES)


@dataclass(frozen=True)
class Passing:
    numbers: np.ndarray
    images: tuple[np.ndarray, ...] = passing(())


@dataclass(frozen=True)
class Small:
    numbers: np.ndarray
    layers: list[np.ndarray]
    names: np.ndarray


def small():
    return Small(numbers(3, 4), [numbers(2), numbers(2, 2)], np.array(["a", "bcd"]))


def assert_same(a, b):
    assert type(a) is type(b)
    for field in stored_fields(type(a)):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert type(one) is type(other)
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


@pytest.mark.parametrize("name", NAMES)
def test_equal_results_give_equal_bytes(name):
    i = NAMES.index(name)
    assert to_npz(results()[i]) == to_npz(results()[i])


def test_donors_that_were_not_aligned_come_back_as_none():
    similarity = dataclasses.replace(results()[2], aligned=[])
    assert from_npz(SimilarityResult, to_npz(similarity)).aligned == []


def test_infinite_numbers_nan_and_negative_zero_come_back():
    result = Small(np.array([np.nan, np.inf, -np.inf, -0.0]), [np.zeros(0)], np.array(["", "ß"]))
    assert_same(from_npz(Small, to_npz(result)), result)


def test_the_order_of_a_long_list_comes_back():
    result = Small(np.zeros(1), [np.array([i]) for i in range(150)], np.array(["x"]))
    assert [int(x[0]) for x in from_npz(Small, to_npz(result)).layers] == list(range(150))


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


@every_step
def test_a_byte_flipped_in_the_middle_of_the_numbers_is_noticed(result):
    content = bytearray(to_npz(result))
    content[len(content) // 2] ^= 0x10
    with pytest.raises(DamagedError):
        from_npz(type(result), bytes(content))


@pytest.mark.parametrize("content", [b"", b"PK", b"not an npz at all" * 20, b"\0" * 1000], ids=["", "PK", "text", "0"])
def test_what_is_no_npz_is_damaged(content):
    with pytest.raises(DamagedError):
        from_npz(SimilarityResult, content)


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
    np.savez(buffer, numbers=np.array([{}], dtype=object), names=np.array(["a"]), **{"layers.00": np.zeros(1)})
    with pytest.raises(DamagedError):
        from_npz(Small, buffer.getvalue())
