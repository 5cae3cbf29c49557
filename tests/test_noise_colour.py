"""The six noises on colour images: channel by channel what they are on grey ones, at one geometry for all channels."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats
from test_noise import SIX, generator, looked_up

import cnnsim_tf
from cnnsim_tf import noise

SIDE = 28
TOGETHER = [name for name in SIX if name != "gaussian"]  # whose draws hold for all channels of an image


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """[24, 28, 28, 3], red, green and blue of different digits, in negative."""
    with np.load(Path(cnnsim_tf.__file__).parent / "data" / "mnist.npz") as mnist:
        grey = 1 - mnist["x_test"][:72].astype(np.float32) / np.float32(127.5)
    return np.ascontiguousarray(np.moveaxis(grey.reshape(24, 3, SIDE, SIDE), 1, 3))


@pytest.mark.parametrize("level", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", TOGETHER)
def test_every_channel_is_noised_as_the_grey_image_that_it_is_with_the_same_draws(name, level, images):
    noised = noise.apply(name, images, level, generator(1))
    assert (noised.shape, noised.dtype, noised.flags.c_contiguous) == (images.shape, np.float32, True)
    for channel in range(3):
        alone = noise.apply(name, np.ascontiguousarray(images[..., channel]), level, generator(1))
        assert noised[..., channel].tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", TOGETHER)
def test_images_of_three_equal_channels_stay_grey(name, images):
    noised = noise.apply(name, np.repeat(images[..., :1], 3, axis=3), 1.0, generator())
    assert np.ptp(noised, axis=3).max() == 0 and not np.array_equal(noised[..., 0], images[..., 0])


def test_gaussian_noise_is_drawn_for_every_channel_by_itself(images):
    many = np.resize(images, (500, SIDE, SIDE, 3))
    added = noise.apply("gaussian", many, 1.0, generator()).astype(float) - many
    expected = 0.5 * generator().standard_normal(many.shape, dtype=np.float32)
    np.testing.assert_allclose(added, expected, atol=1e-6)
    for channel in range(3):
        assert stats.kstest(added[..., channel].ravel()[:100_000], stats.norm(0, 0.5).cdf).pvalue > 0.01
    correlations = np.corrcoef(added.reshape(-1, 3).T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(added[..., 0].size)


def test_the_rotation_of_a_colour_image_is_scipys_of_each_channel(images):
    noised = noise.apply("rotation", images, 1.0, generator(7))
    angles = np.radians(generator(7).uniform(0, 30, len(images)))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    for image, after, angle in zip(images, noised, angles, strict=True):
        rows, columns = x * np.sin(angle) + y * np.cos(angle), x * np.cos(angle) - y * np.sin(angle)
        points = rows + (SIDE - 1) / 2, columns + (SIDE - 1) / 2
        expected = np.stack([looked_up(image[..., c], *points) for c in range(3)], axis=2)
        np.testing.assert_allclose(after, expected, atol=1e-4)


def test_the_blur_of_a_colour_image_is_scipys_of_each_channel_with_one_deviation(images):
    noised = noise.apply("blur", images, 1.0, generator(4))
    y, x = np.mgrid[-2:3, -2:3]
    for image, after, sigma in zip(images, noised, generator(4).uniform(1, 2, len(images)), strict=True):
        kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2))
        expected = ndimage.correlate(image.astype(float), (kernel / kernel.sum())[..., None], mode="mirror")
        np.testing.assert_allclose(after, expected, atol=1e-5)


def test_an_erased_rectangle_is_black_in_all_channels_and_nothing_else_is_touched(images):
    noised = noise.apply("erasing", images, 2.0, generator())
    erased = (noised != images).any(axis=3)
    boxes = noise._rectangles(len(images), SIDE, 2.0, generator())
    for image, after, mask, (top, left, height, width) in zip(images, noised, erased, boxes, strict=True):
        inside = np.zeros((SIDE, SIDE), bool)
        inside[top : top + height, left : left + width] = True
        assert not (mask & ~inside).any()
        assert (after[inside] == -1).all() and np.array_equal(after[~inside], image[~inside])
    assert erased.any()


@pytest.mark.parametrize("name", SIX)
def test_level_0_copies_and_results_do_not_depend_on_the_chunk_nor_touch_the_images(name, images, monkeypatch):
    before = images.copy()
    assert noise.apply(name, images, 0.0, generator()).tobytes() == before.tobytes()
    whole = noise.apply(name, images, 1.0, generator())
    monkeypatch.setattr(noise, "CHUNK", 7)
    assert whole.tobytes() == noise.apply(name, images, 1.0, generator()).tobytes()
    assert images.tobytes() == before.tobytes()
    assert np.isfinite(noise.apply(name, images, 10.0, generator())).all()
