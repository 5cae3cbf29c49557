import contextlib
import gzip
import hashlib
import io
import os
import re
import socket
import struct
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from cnnsim_tf import datasets
from cnnsim_tf.dataset_files import arrays_of_npz
from cnnsim_tf.datasets import ARRAY_NAMES, MNIST_FILE, check_name, load, subset_indices, to_unit, validate
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.process.limits import LARGEST_DATASET

MNIST_CONTENT_DIGEST = "7c87d26a61b833fcdd0b19381fc1cf8b019a3c44ac3209c1be4861c8c68a80d9"
IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@pytest.fixture(scope="module")
def mnist():
    return load("mnist")


@pytest.fixture
def small(mnist):
    """Return 200 + 50 real images as writable arrays by name."""
    return {name: getattr(mnist, name)[: 200 if "train" in name else 50].copy() for name in ARRAY_NAMES}


def as_keras(arrays):
    return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])


def coloured(images):
    """Return images [N, S, S, 3] whose channels differ."""
    return np.stack([images, images[:, ::-1], images // 2], -1)


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype("u1").tobytes()


def write_idx(directory, arrays, rename=lambda name: name, pack=lambda content: content):
    directory.mkdir(exist_ok=True)
    for name, array in arrays.items():
        (directory / rename(IDX_NAMES[name])).write_bytes(pack(idx_bytes(array)))
    return directory


def write_npz(path, arrays, write=np.savez):
    write(path, **arrays)
    return path


def refused_by_name(dataset, *words, kind=StudyError):
    """Return how `load` refuses a dataset; `check_name`, which reads nothing, must do it in the same words."""
    message = message_of(lambda: load(dataset), *words, kind=kind)
    assert message_of(lambda: check_name(dataset), kind=kind) == message
    return message


def message_of(call, *words, kind=StudyError):
    """Return the message of the error that `call` raises: one sentence, of the kind a user sees, with these words."""
    with pytest.raises(StudyError) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    assert not re.search(r"[.!?] [A-Z]", message), "one sentence only"
    assert not message.endswith(".")
    for word in words:
        assert word in message
    return message


# The datasets by name


def test_mnist_has_60000_and_10000_images_of_28_by_28_pixels(mnist):
    assert (mnist.x_train.shape, mnist.x_train.dtype) == ((60000, 28, 28), np.uint8)
    assert (mnist.y_train.shape, mnist.y_train.dtype) == ((60000,), np.int32)
    assert (mnist.x_test.shape, mnist.x_test.dtype) == ((10000, 28, 28), np.uint8)
    assert (mnist.y_test.shape, mnist.y_test.dtype) == ((10000,), np.int32)
    assert (mnist.name, mnist.side, mnist.classes) == ("mnist", 28, 10)


def test_the_digest_of_mnist_never_changes(mnist):
    assert mnist.digest == MNIST_CONTENT_DIGEST


def test_the_licence_note_of_the_data_lies_beside_them():
    note = (MNIST_FILE.parent / "LICENSE").read_text()
    assert "https://creativecommons.org/licenses/by-sa/3.0/" in note
    assert "LeCun" in note


def test_arrays_are_read_only(mnist):
    for name in ARRAY_NAMES:
        with pytest.raises(ValueError, match="read-only"):
            getattr(mnist, name)[0] = 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:5_000_000] + bytes([content[5_000_000] ^ 1]) + content[5_000_001:],
        lambda content: b"",
    ],
    ids=["truncated", "one bit flipped", "empty"],
)
def test_a_damaged_bundled_file_is_named(tmp_path, monkeypatch, spoil):
    copy = tmp_path / "mnist.npz"
    copy.write_bytes(spoil(MNIST_FILE.read_bytes()))
    monkeypatch.setattr(datasets, "MNIST_FILE", copy)
    message_of(lambda: load("mnist"), str(copy), "damaged", "install the package again")


def test_a_sound_file_with_other_content_is_not_taken_for_mnist(tmp_path, monkeypatch, small):
    monkeypatch.setattr(datasets, "MNIST_FILE", write_npz(tmp_path / "mnist.npz", small))
    message_of(lambda: load("mnist"), str(tmp_path / "mnist.npz"), "not the MNIST")


def test_a_missing_bundled_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "MNIST_FILE", tmp_path / "mnist.npz")
    message_of(lambda: load("mnist"), str(tmp_path / "mnist.npz"), "No such file")


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_data_of_keras_are_what_its_loader_gives(monkeypatch, small, name):
    in_colour = name.startswith("cifar")
    if in_colour:  # as Keras gives them: labels are columns
        small |= {key: coloured(small[key]) for key in ("x_train", "x_test")}
        small |= {key: small[key][:, None] for key in ("y_train", "y_test")}
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: as_keras(small))
    data = load(name)
    assert (data.name, data.side, data.channels, data.notes) == (name, 28, 3 if in_colour else 1, ())
    assert np.array_equal(data.x_train, small["x_train"])
    assert np.array_equal(data.y_test, small["y_test"].ravel()) and data.y_test.dtype == np.int32


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize(
    "error",
    [
        Exception("URL fetch failure on https://example.org/x.gz: None --\n[Errno -2] Name or service not known"),
        OSError(101, "Network is unreachable"),
        EOFError(),
        ValueError("long " * 500),
    ],
)
def test_a_failed_download_says_why_and_what_works_instead(monkeypatch, error, name):
    def fail():
        raise error

    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", fail)
    message = message_of(lambda: load(name), f"{name} could not be downloaded", ".npz")
    assert ("IDX" in message) == (name == "fashion_mnist")
    assert (str(error).split() or ["EOFError"])[0] in message
    assert len(message) < 400


@pytest.mark.parametrize("name", ["mnits", "MNIST", "", "kmnist"])
def test_an_unknown_name_lists_the_names_and_mentions_paths(name):
    refused_by_name(name, "unknown dataset", "mnist, fashion_mnist", ".npz", "directory", kind=ParameterError)


# A user's own function


@pytest.fixture
def loader_of(tmp_path, monkeypatch):
    """Return a function that writes a module whose `mine()` gives `value`, and returns its path."""

    def write(value):
        (tmp_path / "their_datasets.py").write_text("value = None\ndef mine():\n    return value()\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "their_datasets", raising=False)
        import their_datasets

        monkeypatch.setattr(their_datasets, "value", value)
        return "their_datasets:mine"

    return write


def test_a_function_of_the_users_works_like_a_name(loader_of, small):
    dataset = load(loader_of(lambda: as_keras(small)))
    assert dataset.name == "their_datasets:mine"
    assert dataset.digest == validate("same", small).digest
    assert small["x_train"].flags.writeable


def test_a_function_may_return_lists(loader_of, small):
    lists = {name: array.tolist() for name, array in small.items()}
    assert load(loader_of(lambda: as_keras(lists))).digest == validate("same", small).digest


@pytest.mark.parametrize("value", [None, 3, (1, 2), ((1, 2, 3), (4, 5)), {}])
def test_a_function_that_returns_something_else_is_told_what_to_return(loader_of, value):
    message_of(lambda: load(loader_of(lambda: value)), "their_datasets:mine", "((x_train, y_train), (x_test, y_test))")


def test_a_function_that_raises_a_study_error_has_the_last_word(loader_of):
    def fail():
        raise StudyError("the archive is closed today")

    assert message_of(lambda: load(loader_of(fail))) == "the archive is closed today"


def test_ragged_lists_are_no_array(loader_of, small):
    small["x_train"] = [[1, 2], [3]]
    message_of(lambda: load(loader_of(lambda: as_keras(small))), "x_train of the dataset", "not an array")


@pytest.mark.parametrize("path", ["no_such_module:mine", ":", "no.such:mine"])
def test_a_module_that_is_not_there_is_told_before_anything_is_imported(path):
    refused_by_name(path, f"cannot import the dataset {path!r}", kind=ParameterError)


def test_a_users_module_and_the_data_are_left_alone_when_names_are_checked(tmp_path, monkeypatch):
    (tmp_path / "their_closed_module.py").write_text("raise OSError('imported')\n")
    (tmp_path / "no_data.npz").write_text("not read")
    monkeypatch.syspath_prepend(tmp_path)
    for dataset in ("their_closed_module:mine", str(tmp_path / "no_data.npz"), str(tmp_path), "fashion_mnist"):
        check_name(dataset)
    assert "their_closed_module" not in sys.modules


# Files of the user's


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_npz_file_gives_back_its_arrays(tmp_path, small, write):
    path = write_npz(tmp_path / "mine.npz", small, write)
    dataset = load(str(path))
    assert dataset.name == str(path)
    assert all(np.array_equal(getattr(dataset, name), small[name]) for name in ARRAY_NAMES)


@pytest.mark.parametrize(
    "rename", [lambda name: name, lambda name: name.replace("-idx", ".idx")], ids=["with a dash", "with a dot"]
)
@pytest.mark.parametrize(
    ("end", "pack"),
    [("", bytes), (".gz", gzip.compress), (".gz", bytes)],
    ids=["plain", "gz", "unpacked by the browser"],
)
def test_idx_files_have_the_digest_of_the_same_npz_file(tmp_path, small, rename, end, pack):
    directory = write_idx(tmp_path / "idx", small, lambda name: rename(name) + end, pack)
    assert load(str(directory)).digest == load(str(write_npz(tmp_path / "a.npz", small))).digest


def test_folders_named_like_idx_files_are_passed_over(tmp_path, small):
    directory = write_idx(tmp_path / "idx", small, lambda name: name.replace("-idx", ".idx"))
    for name in IDX_NAMES.values():
        (directory / name).mkdir()
    assert load(str(directory)).digest == validate("same", small).digest


def test_a_path_may_begin_with_a_tilde_or_be_relative(tmp_path, monkeypatch, small):
    write_npz(tmp_path / "mine.npz", small)
    write_idx(tmp_path / "idx", small)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load("~/mine.npz").digest == load("mine.npz").digest == load("~/idx").digest == load("idx").digest


def test_a_registered_name_wins_over_a_directory_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("mnist").digest == MNIST_CONTENT_DIGEST


@pytest.mark.parametrize("dataset", ["nowhere.npz", "no/such/folder", "./mnist", "~/nowhere.npz", "a/b:c"])
def test_a_path_that_does_not_exist_is_no_unknown_name(tmp_path, monkeypatch, dataset):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    message = refused_by_name(dataset, "no such file or directory", ".npz", "directory of IDX files")
    assert "unknown" not in message


@pytest.mark.parametrize("dataset", ["/" + "x" * 300, "~nobody-has-this-name/mine.npz"])
def test_a_path_that_cannot_be_looked_up_is_an_error_too(dataset):
    refused_by_name(dataset, "cannot read", "check the path")


def test_a_directory_closed_to_the_user_is_an_error_too(tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", closed)
    message_of(lambda: load(str(tmp_path)), "cannot read", "Permission denied", "permissions")


@pytest.mark.parametrize("content", [b"five,0,0,0\n", b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_what_is_not_an_npz_file_is_refused_whatever_its_name(tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    message_of(lambda: load(str(path)), str(path), "not an .npz file", "numpy.savez")


def test_a_truncated_npz_file_is_refused(tmp_path, small):
    path = write_npz(tmp_path / "mine.npz", small)
    path.write_bytes(path.read_bytes()[:-100])
    message_of(lambda: load(str(path)), str(path), "download it again")


def test_a_flipped_byte_anywhere_gives_an_error_or_the_same_content(tmp_path, small):
    small = {name: array[:10] for name, array in small.items()}
    sound = write_npz(tmp_path / "sound.npz", small, np.savez_compressed)
    content, digest, path = sound.read_bytes(), load(str(sound)).digest, tmp_path / "damaged.npz"
    places = np.r_[0:300, len(content) - 300 : len(content), np.linspace(300, len(content) - 300, 100, dtype=int)]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            assert load(str(path)).digest == digest, f"byte {place}"
        except StudyError as error:
            assert "\n" not in str(error)


def test_missing_arrays_of_an_npz_file_are_named_with_those_found(tmp_path, small):
    del small["y_train"], small["x_test"]
    path = write_npz(tmp_path / "mine.npz", small | {"train_labels": np.arange(3)})
    message_of(lambda: load(str(path)), str(path), "lacks y_train, x_test", "found: x_train, y_test, train_labels")


MEDMNIST_NAMES = {
    "x_train": "train_images",
    "y_train": "train_labels",
    "x_test": "test_images",
    "y_test": "test_labels",
}


def as_medmnist(arrays):
    """Return arrays by the names that MedMNIST's files have for them, labels as columns."""
    columns = {name: array[:, None] if name[0] == "y" else array for name, array in arrays.items()}
    return {MEDMNIST_NAMES[name]: array for name, array in columns.items()}


@pytest.mark.parametrize("change", [lambda x: x, coloured], ids=["grey", "colour"])
def test_a_file_of_medmnist_has_the_content_of_one_of_keras_and_its_validation_part_is_left_alone(
    tmp_path, small, change
):
    small |= {key: change(small[key]) for key in ("x_train", "x_test")}
    others = {"val_images": np.zeros((3, 5)), "val_labels": np.array([None])}  # which nobody reads
    path = write_npz(tmp_path / "pathmnist.npz", others | as_medmnist(small))
    found, expected = load(str(path)), validate("same", small)
    assert (found.digest, found.notes) == (
        expected.digest,
        (f"{path} has val_images and val_labels, which this study leaves alone",),
    )
    assert expected.notes == load(str(write_npz(tmp_path / "keras.npz", small))).notes == ()


def test_what_is_wrong_with_a_file_of_medmnist_is_told_by_its_own_names(tmp_path, small):
    whole = as_medmnist(small)
    cut = write_npz(tmp_path / "cut.npz", {name: array for name, array in whole.items() if name != "test_labels"})
    message_of(
        lambda: load(str(cut)), "lacks test_labels (found: train_images", "train_labels, test_images, test_labels"
    )
    floats = write_npz(tmp_path / "floats.npz", whole | {"train_images": small["x_train"] / 255})
    message_of(lambda: load(str(floats)), f"train_images of {floats} has the type float64")
    several = write_npz(tmp_path / "several.npz", whole | {"train_labels": np.eye(14, dtype="u1")[small["y_train"]]})
    message_of(lambda: load(str(several)), f"train_labels of {several} has shape [200, 14]")


def test_an_npz_file_of_nothing_lacks_everything(tmp_path):
    path = write_npz(tmp_path / "mine.npz", {})
    message_of(lambda: load(str(path)), "lacks x_train, y_train, x_test, y_test", "found: nothing")


def test_python_objects_in_an_npz_file_are_never_unpickled(tmp_path, small):
    path = write_npz(tmp_path / "mine.npz", small | {"y_train": np.array([1, "two", None], dtype=object)})
    message_of(lambda: load(str(path)), f"y_train of {path}", "allow_pickle=False", "plain integer arrays")


def test_an_array_whose_header_promises_petabytes_is_refused(tmp_path, small):
    path = write_npz(tmp_path / "mine.npz", small)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**50, 28, 28)})
    with zipfile.ZipFile(path, "w") as file:
        for name in ARRAY_NAMES:
            file.writestr(f"{name}.npy", header.getvalue())
    message_of(lambda: load(str(path)), f"x_train of {path}")


# --- what may have no end, and what is more than it seems ---------------------------------------------------------


@pytest.fixture
def brief_and_small():
    """Hold a test to five seconds and to 20 MB."""
    begun = time.monotonic()
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - begun < 5
    assert peak < 20e6


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)  # in short, as there is a limit


SPECIAL = {
    "a named pipe": make_pipe,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.usefixtures("brief_and_small")
def test_what_may_never_end_is_refused_by_what_it_is(tmp_path, kind):
    SPECIAL[kind](tmp_path / "it.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "it.npz")
    for name in ("it.npz", "link.npz"):
        refused_by_name(str(tmp_path / name), f"{tmp_path / name} is {kind}", "regular file")


@pytest.mark.usefixtures("brief_and_small")
def test_a_pipe_that_takes_the_place_of_a_file_or_lies_in_a_directory_is_not_waited_for(tmp_path, small, monkeypatch):
    directory = write_idx(tmp_path / "idx", small)
    (directory / IDX_NAMES["y_train"]).unlink()
    os.mkfifo(directory / IDX_NAMES["y_train"])
    message_of(lambda: load(str(directory)), "lacks train-labels-idx1-ubyte", "regular files")
    monkeypatch.setattr(Path, "is_file", Path.exists)  # as if it had been one a moment ago
    message_of(lambda: load(str(directory)), f"{directory / IDX_NAMES['y_train']} is a named pipe")
    with pytest.raises(StudyError, match="is a named pipe"):
        arrays_of_npz(directory / IDX_NAMES["y_train"])


def member(shape, dtype="|u1", version=1):
    """Return the beginning of an array's file: its header, and a few bytes."""
    file = io.BytesIO()
    write = getattr(np.lib.format, f"write_array_header_{version}_0")
    write(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(100)


def write_members(path, method=zipfile.ZIP_DEFLATED, **members):
    """Write an .npz of members as they are; those that are not given have one number."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name in ARRAY_NAMES:
            file.writestr(f"{name}.npy", members.get(name, member((1,))))
    return path


LIES = {
    "12 GB": ({"x_test": member((12_000_000, 1000))}, "x_test of {} announces", "12.0 GB"),
    "of 12 GB together": ({n: member((3_000_000, 1000)) for n in ARRAY_NAMES}, "y_test of {} announces", "12.0 GB"),
    "8 bytes each": ({"y_train": member((2_000_000_000,), "<i8")}, "y_train of {} announces", "16.0 GB"),
    "below zero": ({"x_train": member((-12_000_000, -1000))}, "x_train of {} announces", "12.0 GB"),
    "texts of nothing": ({"x_train": member((2**60,), "|S0")}, "x_train of {} announces"),
    "a long header": (
        {"x_train": b"\x93NUMPY\x02\x00" + struct.pack("<I", 30_000_000) + bytes(30_000_000)},
        *("cannot read x_train of {}", "header of version (2, 0)"),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_npz_that_announces_too_much_is_refused_before_anything_is_unpacked(tmp_path, monkeypatch, lie, request):
    monkeypatch.setenv(LARGEST_DATASET, "11.5")
    members, *words = LIES[lie]
    path = write_members(tmp_path / "mine.npz", **members)
    request.getfixturevalue("brief_and_small")
    message_of(lambda: load(str(path)), *(word.format(path) for word in words))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_to_any_amount_are_refused(tmp_path, method, request):
    path = write_members(tmp_path / "mine.npz", method, x_train=member((25_000_000,)) + bytes(25_000_000))
    request.getfixturevalue("brief_and_small")
    message_of(lambda: load(str(path)), f"cannot read x_train of {path}", "numpy.savez")


@pytest.mark.usefixtures("brief_and_small")
def test_a_list_of_more_members_than_any_npz_has_is_not_read(tmp_path):
    path = write_members(tmp_path / "mine.npz")
    content, size = path.read_bytes(), 2**32 - 2
    end = content.rindex(b"PK\x05\x06")
    with path.open("wb") as file:
        file.truncate(size)  # of which nothing is written
        file.seek(size)
        file.write(content[end : end + 12] + struct.pack("<II", size, 0) + content[end + 20 :])
    message_of(lambda: load(str(path)), f"cannot read {path}", "members")


def test_gzip_is_unpacked_as_far_as_its_header_announces(tmp_path, small, request):
    directory = write_idx(tmp_path / "idx", small)
    path = directory / IDX_NAMES["x_test"]
    path.write_bytes(gzip.compress(path.read_bytes()[:16] + bytes(60_000_000), 1))
    request.getfixturevalue("brief_and_small")
    message_of(lambda: load(str(directory)), str(path), "more than 39216 bytes, but its header announces 39216")


ENDLESS = {
    "padding": lambda content: gzip.compress(content),
    "padding of nothing": lambda content: gzip.compress(b""),
    "members of nothing": lambda content: gzip.compress(b"") * 200_000,
    "long name": lambda content: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 100_000_000,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_gzip_file_that_goes_on_after_its_data_or_before_them_is_refused(tmp_path, small, request, kind):
    directory = write_idx(tmp_path / "idx", small)
    path = directory / IDX_NAMES["x_test"]
    path.write_bytes(ENDLESS[kind](path.read_bytes()))
    if "padding" in kind:
        os.truncate(path, 100 * 10**9)  # zeros, of which nothing is written
    request.getfixturevalue("brief_and_small")
    message_of(lambda: load(str(directory)), str(path))


def lazily_huge():
    images = np.broadcast_to(np.uint8(200), (10**9, 28, 28))
    return (images, np.broadcast_to(np.int64(1), 10**9)), (images[:20], np.zeros(20, int))


def test_what_a_function_returns_is_held_against_the_bound_before_anybody_looks_at_it():
    message_of(lambda: load(f"{__name__}:lazily_huge"), "x_train of the dataset", LARGEST_DATASET)


@pytest.mark.usefixtures("brief_and_small")
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_that_announce_too_much_are_refused_before_any_is_unpacked(tmp_path, small, pack, monkeypatch):
    monkeypatch.setenv(LARGEST_DATASET, "4")
    directory = write_idx(tmp_path / "idx", small, pack=pack)
    path = directory / IDX_NAMES["y_test"]
    path.write_bytes(pack(struct.pack(">2I", 0x801, 2**32 - 1)))
    first = directory / IDX_NAMES["x_train"]
    os.truncate(first, first.stat().st_size - 10)  # which would be told if it were read
    message_of(lambda: load(str(directory)), f"{path} announces", "4.3 GB", LARGEST_DATASET)


@pytest.mark.usefixtures("brief_and_small")
def test_a_file_that_is_long_and_empty_is_read_as_far_as_its_header_announces(tmp_path, small):
    directory = write_idx(tmp_path / "idx", small)
    path = directory / IDX_NAMES["y_train"]
    with path.open("r+b") as file:
        file.truncate(2**36)
    message_of(lambda: load(str(directory)), f"{path} has a length of more than 208 bytes")


def test_who_has_the_memory_may_say_so(tmp_path, small, monkeypatch):
    path = write_npz(tmp_path / "mine.npz", small)
    monkeypatch.setenv(LARGEST_DATASET, "1e-4")
    message_of(lambda: load(str(path)), f"the most is 0.0 GB ({LARGEST_DATASET}")
    monkeypatch.setenv(LARGEST_DATASET, "0.001")
    assert load(str(path)).digest == validate("same", small).digest


def test_members_that_are_no_arrays_are_refused(tmp_path):
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name in ARRAY_NAMES:
            file.writestr(f"{name}.npy", "0 0 0 0")
    message_of(lambda: load(str(path)), f"x_train of {path}")


def test_a_directory_without_idx_files_lists_all_four(tmp_path):
    message_of(lambda: load(str(tmp_path)), str(tmp_path), *IDX_NAMES.values())


def test_a_directory_with_some_idx_files_lists_the_others_only(tmp_path, small):
    directory = write_idx(tmp_path / "idx", small)
    (directory / IDX_NAMES["y_test"]).unlink()
    message = message_of(lambda: load(str(directory)), "lacks t10k-labels-idx1-ubyte:")
    assert "train-images" not in message


SPOILT_IDX = {
    "wrong magic": (lambda content: b"\x00\x00\x08\x01" + content[4:], "00000801"),
    "a picture": (lambda content: b"\x89PNG\r\n\x1a\n", "89504e47"),
    "empty": (lambda content: b"", "of nothing"),
    "header cut": (lambda content: content[:9], "a length of 9 bytes"),
    "truncated": (lambda content: content[:-1], "its header announces 156816"),
    "too long": (lambda content: content + b"\x00", "its header announces 156816"),
    "truncated gz": (lambda content: gzip.compress(content)[:-20], "cannot read"),
    "gz cut in its header": (lambda content: gzip.compress(content)[:5], "cannot read"),
    "damaged gz": (
        lambda content: gzip.compress(content).replace(gzip.compress(content)[1000:1010], b"0" * 10),
        "read",
    ),
    "wrong checksum": (lambda content: gzip.compress(content)[:-8] + b"\x00" * 8, "cannot read"),
    "bytes after gz": (lambda content: gzip.compress(content) + b"junk", "cannot read"),
}


@pytest.mark.parametrize(("spoil", "word"), SPOILT_IDX.values(), ids=SPOILT_IDX.keys())
def test_a_damaged_idx_file_is_named(tmp_path, small, spoil, word):
    directory = write_idx(tmp_path / "idx", small)
    path = directory / IDX_NAMES["x_train"]
    path.write_bytes(spoil(path.read_bytes()))
    message_of(lambda: load(str(directory)), str(path), word, "download it again")


# What is checked of any dataset


def with_change(**changes):
    return lambda small: small | {name: change(small[name]) for name, change in changes.items()}


def labelled(train, test=(0,)):
    """Return a change of the arrays to these labels, with as many black images."""

    def change(small):
        y_train, y_test = np.asarray(train), np.asarray(test)
        return {
            "x_train": np.zeros((len(y_train), 8, 8), np.uint8),
            "y_train": y_train,
            "x_test": np.zeros((len(y_test), 8, 8), np.uint8),
            "y_test": y_test,
        }

    return change


def put(value):
    def change(array):
        array = array.astype(np.int64 if isinstance(value, int) else np.float64)
        array.flat[0] = value
        return array

    return change


TWELVE = np.repeat(np.arange(12), 10)
REFUSED = {
    "float images": (with_change(x_train=lambda x: x / 255), "x_train", "float64", "integers", ".astype('uint8')"),
    "float test images": (with_change(x_test=lambda x: x.astype("f4")), "x_test", "float32", ".astype('uint8')"),
    "NaN": (with_change(x_train=put(np.nan)), "x_train", "float64", "integers"),
    "complex images": (with_change(x_train=lambda x: x * 1j), "x_train", "complex128"),
    "images of text": (with_change(x_train=lambda x: x.astype(str)), "x_train", "integers"),
    "black and white as bool": (with_change(x_train=lambda x: x > 0), "x_train", "bool", "integers"),
    "pixel 256": (with_change(x_train=put(256)), "x_train", "0 to 256", "0 to 255"),
    "pixel -1": (with_change(x_test=put(-1)), "x_test", "-1 to 255", "0 to 255"),
    "colour beside grey": (with_change(x_train=coloured), "x_train", "has colour images", "x_test", "grey ones"),
    "grey beside colour": (with_change(x_test=coloured), "x_train", "has grey images", "x_test", "colour ones"),
    "two channels": (with_change(x_train=lambda x: coloured(x)[..., :2]), "x_train", "[200, 28, 28, 2], 2 channels"),
    "opacity": (with_change(x_test=lambda x: np.stack([x] * 4, -1)), "x_test", "4 channels", "red, green and blue"),
    "volumes": (with_change(x_train=lambda x: np.stack([x] * 28, -1)), "x_train", "28 channels"),
    "channels first": (with_change(x_train=lambda x: np.stack([x] * 3, 1)), "x_train", "[200, 3, 28, 28]", "last"),
    "oblong colour": (with_change(x_test=lambda x: coloured(x)[:, 4:]), "x_test", "[50, 24, 28, 3]", "square"),
    "colour of two sides": (
        with_change(x_train=coloured, x_test=lambda x: coloured(x)[:, 4:, 4:]),
        "side 28",
        "side 24",
        "same side",
    ),
    "flat images": (with_change(x_train=lambda x: x.reshape(200, -1)), "x_train", "[200, 784]", "square"),
    "oblong images": (with_change(x_train=lambda x: x[:, :20]), "x_train", "[200, 20, 28]", "square"),
    "a single number": (with_change(x_train=lambda x: np.int64(3)), "x_train", "shape []", "square"),
    "side 7": (with_change(x_train=lambda x: x[:, :7, :7], x_test=lambda x: x[:, :7, :7]), "side 7", "8 pixels"),
    "two sides": (with_change(x_test=lambda x: x[:, :20, :20]), "side 28", "x_test", "side 20", "same side"),
    "no training images": (with_change(x_train=lambda x: x[:0], y_train=lambda y: y[:0]), "x_train", "empty"),
    "no test images": (with_change(x_test=lambda x: x[:0], y_test=lambda y: y[:0]), "x_test", "empty"),
    "no pixels": (with_change(x_train=lambda x: x[:, :0, :0]), "x_train", "empty"),
    "too few labels": (with_change(y_train=lambda y: y[1:]), "y_train", "199 labels for 200 images"),
    "too many labels": (with_change(y_test=lambda y: np.append(y, 0)), "y_test", "51 labels for 50 images"),
    "float labels": (with_change(y_train=lambda y: y.astype(float)), "y_train", "float64", ".astype('int32')"),
    "labels of text": (with_change(y_test=lambda y: y.astype(str)), "y_test", "integers"),
    "one-hot labels": (with_change(y_train=lambda y: np.eye(10, dtype=int)[y]), "y_train", "[200, 10]", "argmax"),
    "two labels each": (with_change(y_train=lambda y: np.stack([y] * 2, 1)), "y_train", "[200, 2]", "[N] or [N, 1]"),
    "labels as a row": (with_change(y_train=lambda y: y[None]), "y_train", "[1, 200]"),
    "columns of too few labels": (with_change(y_test=lambda y: y[1:, None]), "y_test", "49 labels for 50 images"),
    "negative label": (with_change(y_train=put(-1)), "y_train", "negative label -1", "run from 0"),
    "negative test label": (with_change(y_test=put(-3)), "y_test", "negative label -3"),
    "one label 255": (with_change(y_train=put(255)), "labels out of range", "y_train", "label 255 occurs once"),
    "one label 10": (with_change(y_train=put(10)), "labels out of range", "label 10 occurs once"),
    "astronomical label": (with_change(y_train=put(2**62)), "labels out of range", f"label {2**62} occurs once"),
    "test label 12 of 10": (with_change(y_test=put(12)), "labels out of range", "y_test", "12 occurs once", "0 to 9"),
    "class of 9 images": (labelled(TWELVE[:-1]), "labels out of range", "label 11 occurs 9 times", "at least 10"),
    "small class in the middle": (labelled(TWELVE[1:]), "labels out of range", "label 0 occurs 9 times", "largest"),
    "labels from 1": (labelled(TWELVE + 1), "labels out of range", "label 0 occurs 0 times", "is 12"),
    "gap": (labelled(np.repeat([*range(9), 20], 10)), "labels out of range", "label 9 occurs 0 times", "is 20"),
    "test label 12 of 12": (labelled(TWELVE, [3, 12, 12]), "y_test", "label 12 occurs 2 times", "0 to 11 only"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_dataset_that_breaks_a_rule_is_told_which_and_what_to_do(tmp_path, small, case):
    change, *words = case
    path = write_npz(tmp_path / "mine.npz", change(small))
    message_of(lambda: load(str(path)), str(path), *words)


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "u4", "i8", "u8"])
def test_integers_of_any_type_and_byte_order_mean_the_same(small, dtype):
    others = {name: array.astype(dtype) for name, array in small.items()}
    assert validate("other", others).digest == validate("same", small).digest


def test_a_colour_axis_of_one_and_a_memory_layout_make_no_difference(small):
    images = {name: np.asfortranarray(small[name])[..., None] for name in ("x_train", "x_test")}
    dataset = validate("other", small | images)
    assert dataset.x_train.shape == (200, 28, 28)
    assert dataset.x_train.flags.c_contiguous
    assert dataset.digest == validate("same", small).digest


def test_colour_images_stay_as_they_are_and_labels_in_a_column_are_labels(small):
    images = {name: coloured(small[name]) for name in ("x_train", "x_test")}
    columns = {name: small[name][:, None] for name in ("y_train", "y_test")}
    dataset = validate("mine", small | images | columns)
    assert (dataset.side, dataset.channels, dataset.x_train.dtype) == (28, 3, np.uint8)
    assert all(np.array_equal(getattr(dataset, name), array) for name, array in images.items())
    assert all(np.array_equal(getattr(dataset, name), small[name]) for name in columns)
    assert validate("mine", small | columns).digest == validate("mine", small).digest != dataset.digest


def test_the_digest_is_a_sha256_of_names_types_shapes_and_bytes(small):
    sha = hashlib.sha256()
    for name in ARRAY_NAMES:
        sha.update(f"{name} {small[name].dtype} {small[name].shape}\n".encode() + small[name].tobytes())
    assert validate("any", small).digest == sha.hexdigest()


def test_validate_leaves_its_input_alone(small):
    dataset = validate("mine", small)
    small["x_train"][:] = 7
    assert not (dataset.x_train == 7).all()


@pytest.mark.parametrize(
    ("train", "test", "classes"),
    [
        ([0, 1], [1], 10),
        ([9], [0], 10),
        ([3], [9], 10),
        (np.repeat(np.arange(11), 10), [10], 11),
        (np.repeat(np.arange(26), 10), [0], 26),
    ],
)
def test_there_are_ten_classes_or_as_many_as_the_training_labels_say(train, test, classes):
    dataset = validate("mine", labelled(train, test)({}))
    assert dataset.classes == classes
    assert dataset.side == 8


# Pixels and subsets


@pytest.fixture(scope="module")
def every_pixel_value():
    return np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


def test_to_unit_is_bit_for_bit_what_the_rescaling_layer_of_keras_computes(every_pixel_value):
    layer = keras.layers.Rescaling(1 / 127.5, offset=-1)
    unit = to_unit(every_pixel_value)
    assert layer(every_pixel_value).numpy().tobytes() == unit.tobytes()
    assert layer(every_pixel_value.astype(np.float32)).numpy().tobytes() == unit.tobytes()
    model = keras.Sequential([keras.Input((16, 16)), layer])
    assert model.predict(every_pixel_value, verbose=0).tobytes() == unit.tobytes()


def test_to_unit_leaves_the_images_alone_and_gives_back_what_is_in_unit_already(every_pixel_value):
    before = every_pixel_value.copy()
    unit = to_unit(every_pixel_value)
    assert np.array_equal(every_pixel_value, before)
    assert to_unit(unit) is unit


@pytest.mark.parametrize(("n", "subsets"), [(60000, 6), (60, 6), (61, 6), (65, 6), (6, 6), (5, 1), (7, 2)])
def test_subsets_are_equal_disjoint_and_leave_out_the_remainder_only(n, subsets):
    indices = subset_indices(n, subsets, np.random.default_rng(1))
    assert (indices.shape, indices.dtype) == ((subsets, n // subsets), np.int32)
    drawn = np.unique(indices)
    assert len(drawn) == indices.size
    assert drawn[0] >= 0
    assert drawn[-1] < n
    assert n - len(drawn) == n % subsets


def test_subsets_are_consecutive_parts_of_one_shuffle():
    shuffle = np.random.default_rng(5).permutation(100)
    indices = subset_indices(100, 6, np.random.default_rng(5))
    assert np.array_equal(indices.ravel(), shuffle[:96])


@pytest.mark.parametrize(("n", "subsets"), [(5, 6), (0, 1), (1, 2), (5, 0), (5, -1)])
def test_there_cannot_be_more_subsets_than_images(n, subsets):
    message_of(
        lambda: subset_indices(n, subsets, np.random.default_rng(1)), f"{n} ", "needs at least one image per subset"
    )


# --- the range of pixel values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [1, 2, 16, 100, 127])
def test_images_on_a_smaller_scale_than_255_are_refused_with_what_mends_them(small, largest):
    wrong = {key: (a // (255 / largest)).astype(np.uint8) if key[0] == "x" else a for key, a in small.items()}
    message = message_of(
        lambda: validate("mine", wrong), "x_train of mine has pixel values from 0 to", "multiply them by"
    )
    assert f"to {wrong['x_train'].max()}:" in message


@pytest.mark.parametrize("largest", [1, 15, 31])
def test_test_images_on_a_smaller_scale_than_the_training_images_are_refused(small, largest):
    wrong = small | {"x_test": (small["x_test"] // (255 / largest)).astype(np.uint8)}
    message_of(lambda: validate("mine", wrong), "x_test of mine has pixel values from 0 to")


def test_test_images_that_are_inverted_or_of_another_scale_or_other_classes_are_refused(small):
    inverted, dim = 255 - small["x_test"], small["x_test"] // 2 - 10 * (small["x_test"] > 20)
    for x_test, words in ((inverted, "looks inverted"), (dim, "must be on the same scale"), (inverted // 4, "same")):
        message_of(lambda x=x_test: validate("mine", small | {"x_test": x}), "x_test of mine has pixel values", words)
    labels = {"y_train": small["y_train"] % 5, "y_test": small["y_test"] % 5 + 5}
    message_of(lambda: validate("mine", small | labels), "of classes that no training image has")
    assert validate("mine", small | {"y_train": small["y_train"] % 9}).classes == 10  # a few may be unknown


@pytest.mark.parametrize("key", ["x_train", "x_test"])
def test_images_that_are_black_altogether_are_images(small, key):
    assert not validate("mine", small | {key: np.zeros_like(small[key])}).x_test[:0].any()


def test_binary_images_of_0_and_255_and_dim_test_images_are_images(small):
    binary = {key: 255 * (a > 127) if key[0] == "x" else a for key, a in small.items()}
    assert set(np.unique(validate("mine", binary).x_train)) == {0, 255}
    assert validate("mine", small | {"x_test": small["x_test"][:1] // 3, "y_test": small["y_test"][:1]}).x_test.any()
