"""What stands in for tensorflow-addons gives its results: where it has no wheel byte for byte, look-ups nearly so."""

import inspect
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from cnnsim_tf import image_operations, noise

tfa_image = pytest.importorskip("tensorflow_addons").image

SIZES = [(28, 28, 1), (27, 27, 1), (2, 2, 1), (3, 5, 1), (31, 8, 3), (64, 65, 1)]


def images_of(height, width, channels, n=40):
    return np.random.default_rng(height).uniform(-1, 1, (n, height, width, channels)).astype(np.float32)


def transforms_of(kind, n=40):
    rng = np.random.default_rng(0)
    rows = np.tile(np.float32([1, 0, 0, 0, 1, 0, 0, 0]), (n, 1))
    changes = {
        "identity": rows * 0,
        "slight": rng.normal(0, 0.05, rows.shape),
        "strong": rng.normal(0, 3, rows.shape),
        "far outside": rng.normal(0, 1e6, rows.shape) * [0, 0, 1, 0, 0, 1, 0, 0],
        "horizon in the image": rng.normal(0, 0.3, rows.shape) * [0, 0, 0, 0, 0, 0, 1, 1],
        "point at infinity": np.tile([0, 0, 0, 0, 0, 0, -1, 0], (n, 1)),
        "near-singular": rng.normal(0, 1e-6, rows.shape) - [1, 0, 0, 0, 1, 0, 0, 0],
        "huge": rng.normal(0, 1e6, rows.shape),
    }
    return (rows + changes[kind]).astype(np.float32)


KINDS = ["identity", "slight", "strong", "far outside", "horizon in the image", "point at infinity", "near-singular"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("kind", [*KINDS, "huge"])
def test_projective_transforms_are_those_of_tensorflow_addons(kind, interpolation, size):
    given = images_of(*size), transforms_of(kind), interpolation
    ours, theirs = (f(*given, fill_value=-1.0) for f in (image_operations._transform, tfa_image.transform))
    assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    assert ours.shape == given[0].shape and ours.dtype == tf.float32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [0.0, 1e-6, 0.5, 3.2, 1000.0])
def test_rotations_are_those_of_tensorflow_addons(most, size):
    angles = np.random.default_rng(1).uniform(-most, most, 40).astype(np.float32)
    ours, theirs = (
        f(images_of(*size), angles, "bilinear", fill_value=-1.0) for f in (image_operations._rotate, tfa_image.rotate)
    )
    assert ours.numpy().tobytes() == theirs.numpy().tobytes()


@pytest.mark.parametrize("side", [2, 9, 28, 65])
def test_look_ups_are_those_of_tensorflow_addons_in_images_with_a_frame_of_background(side):
    images = images_of(side, side, 1)
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-0.5)
    for most, whole in product([0.0, 0.5, 3.0, 100.0, 1e12], [False, True]):
        moves = np.random.default_rng(2).uniform(-most, most, (2, 40, side, side)).astype(np.float32)
        moves = np.round(moves) if whole else moves
        flow = np.pad(np.moveaxis(-moves, 0, -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
        theirs = tfa_image.dense_image_warp(framed, flow).numpy()[:, 1:-1, 1:-1, 0]
        points = moves + np.indices((side, side), np.float32)[:, None]
        ours = image_operations.looked_up(images[..., 0], points, -0.5)
        np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=f"{most} {whole}")


def test_tensorflow_addons_is_used_where_it_is():
    names = ("transform", "rotate")
    assert all(getattr(image_operations, name) is getattr(tfa_image, name) for name in names)


def noised():
    """Return images under every noise, odd and even sides, in colours too, more than are worked on at a time."""
    result = {}
    for shape, level, name in product(((28, 28), (9, 9), (9, 9, 3)), (0.3, 1.0, 3.0), noise.NOISES):
        images = np.random.default_rng(shape[0]).uniform(-1, 1, (noise.CHUNK + 8, *shape)).astype(np.float32)
        result[f"{name} {level} {shape}"] = noise.apply(name, images, level, np.random.default_rng(3))
    return result


WITHOUT = """
import sys
sys.modules["tensorflow_addons"] = None  # importing it is an error
import numpy as np
from itertools import product
from cnnsim_tf.run import device
from cnnsim_tf import image_operations, noise

device.configure("cpu")
assert image_operations.rotate is image_operations._rotate
"""


@pytest.mark.slow
def test_without_tensorflow_addons_every_noise_gives_the_same_bytes(tmp_path, users_environment):
    environment = users_environment | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    script = f"{WITHOUT}\n{inspect.getsource(noised)}\nnp.savez(sys.argv[1], **noised())"
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "without.npz")], env=environment)
    expected = noised()
    assert other.wait() == 0
    with np.load(tmp_path / "without.npz") as found:
        assert sorted(found.files) == sorted(expected) and len(expected) == 6 * 3 * 3
        assert [name for name in expected if found[name].tobytes() != expected[name].tobytes()] == []
