import math
import random
from pathlib import Path

import numpy as np
import pytest
import users_noises
from scipy import ndimage, stats

import cnnsim_tf
from cnnsim_tf import image_operations, noise
from cnnsim_tf.errors import StudyError

SIX = ["perspective", "blur", "gaussian", "erasing", "elastic", "rotation"]
SIDE = 28


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Digits in negative, so that the background that comes from outside differs from the images' own border."""
    with np.load(Path(cnnsim_tf.__file__).parent / "data" / "mnist.npz") as mnist:
        return 1 - mnist["x_test"][:24].astype(np.float32) / np.float32(127.5)


def generator(seed=0):
    return np.random.default_rng(seed)


def looked_up(image, rows, columns):
    """What a bilinear look-up finds at (row, column) if everything outside the image is -1."""
    return ndimage.map_coordinates(image.astype(float), [rows, columns], order=1, mode="grid-constant", cval=-1.0)


def test_the_six_are_registered_in_the_published_order():
    assert list(noise.NOISES) == SIX


@pytest.mark.parametrize("name", SIX)
def test_level_0_gives_back_a_copy_bit_for_bit_and_draws_nothing(name, images):
    rng, before = generator(), images.copy()
    same = noise.apply(name, images, 0.0, rng)
    assert same.tobytes() == before.tobytes()
    assert not np.shares_memory(same, images)
    assert rng.bit_generator.state == generator().bit_generator.state


@pytest.mark.parametrize("name", SIX)
def test_a_noise_changes_a_copy_and_the_same_seed_gives_the_same_bits(name, images):
    before = images.copy()
    noised = noise.apply(name, images, 1.0, generator(1))
    assert (noised.shape, noised.dtype, noised.flags.c_contiguous) == (images.shape, np.float32, True)
    assert np.isfinite(noised).all()
    assert not np.array_equal(noised, images)
    assert noised.tobytes() == noise.apply(name, images, 1.0, generator(1)).tobytes()
    assert noised.tobytes() != noise.apply(name, images, 1.0, generator(2)).tobytes()
    noise.NOISES.get(name)(images, 1.0, generator(1))
    assert images.tobytes() == before.tobytes()


@pytest.mark.parametrize("name", SIX)
def test_results_do_not_depend_on_how_many_images_are_worked_on_at_a_time(name, images, monkeypatch):
    whole = noise.apply(name, images, 1.0, generator())
    monkeypatch.setattr(noise, "CHUNK", 7)
    assert whole.tobytes() == noise.apply(name, images, 1.0, generator()).tobytes()


@pytest.mark.parametrize("name", ["blur", "gaussian", "elastic"])
@pytest.mark.parametrize("n", [1, 5])
def test_an_images_bits_do_not_depend_on_its_neighbours_or_how_many_there_are(name, n, images, monkeypatch):
    monkeypatch.setattr(noise, "CHUNK", 3)
    whole, others = noise.apply(name, images, 1.0, generator()), -images
    others[:n] = images[:n]
    assert noise.apply(name, images[:n], 1.0, generator()).tobytes() == whole[:n].tobytes()
    assert noise.apply(name, others, 1.0, generator())[:n].tobytes() == whole[:n].tobytes()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SIX)
def test_a_hardly_noticeable_level_hardly_changes_anything(name, images):
    np.testing.assert_allclose(noise.apply(name, images, 1e-200, generator()), images, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SIX)
def test_the_strongest_level_of_a_study_is_still_finite(name, images):
    assert np.isfinite(noise.apply(name, images, 10.0, generator())).all()


@pytest.mark.parametrize(("level", "most"), [(0.5, 2), (1.0, 4), (2.0, 8)])
def test_corners_move_by_whole_pixels_uniformly_up_to_the_level_in_x_and_y(level, most):
    offsets = noise._corner_offsets(10_000, SIDE, level, generator()).reshape(10_000, 8)
    counts = np.stack([np.bincount(column, minlength=most + 1) for column in offsets.T])
    assert counts.shape == (8, most + 1)
    assert stats.chisquare(counts, axis=1).pvalue.min() > 1e-3
    assert np.abs(np.corrcoef(offsets.T) - np.eye(8)).max() < 0.05


def test_perspective_shows_the_corners_of_the_image_moved_inward(images):
    noised = noise.apply("perspective", images, 1.0, generator(3))
    offsets = noise._corner_offsets(len(images), SIDE, 1.0, generator(3))
    end = SIDE - 1
    corners = np.array([[0, 0], [end, 0], [end, end], [0, end]])
    columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    for image, after, ((x0, y0), (x1, y1), (x2, y2), (x3, y3)) in zip(images, noised, offsets, strict=True):
        moved = [(x0, y0), (end - x1, y1), (end - x2, end - y2), (x3, end - y3)]
        equations = []
        for (x, y), (u, v) in zip(corners, moved, strict=True):
            equations += [[u, v, 1, 0, 0, 0, -u * x, -v * x], [0, 0, 0, u, v, 1, -u * y, -v * y]]
        a = np.append(np.linalg.solve(equations, corners.ravel()), 1).reshape(3, 3)
        x, y, k = np.tensordot(a, [columns, rows, np.ones_like(rows)], axes=1)
        np.testing.assert_allclose(after, looked_up(image, y / k, x / k), atol=2e-4)


@pytest.mark.parametrize("level", [3.0, 10.0])
def test_no_view_is_folded_however_strong_the_distortion(level):
    offsets = noise._corner_offsets(2_000, SIDE, level, generator())
    assert offsets.max() == min(int(0.3 * level * 14), 14)
    transforms = noise._homographies(offsets, SIDE).astype(float)
    matrices = np.append(transforms, np.ones((2_000, 1)), axis=1).reshape(-1, 3, 3)
    corners = np.array([[0, 0], [27, 0], [27, 27], [0, 27]])
    moved = corners + np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * offsets
    shown = np.append(moved, np.ones((2_000, 4, 1)), axis=2) @ matrices.swapaxes(1, 2)
    np.testing.assert_allclose(shown[..., :2] / shown[..., 2:], np.broadcast_to(corners, moved.shape), atol=2e-3)
    # The horizon does not cross the view: all its corners are on the same side.
    assert (np.abs(np.sign(shown[..., 2]).sum(axis=1)) == 4).all()


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0])
def test_blur_is_a_5x5_gaussian_with_reflected_borders(level, images):
    blurred = noise.apply("blur", images, level, generator(4))
    sigmas = generator(4).uniform(level, 2 * level, len(images))
    y, x = np.mgrid[-2:3, -2:3]
    for image, after, sigma in zip(images, blurred, sigmas, strict=True):
        kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2))
        expected = ndimage.correlate(image.astype(float), kernel / kernel.sum(), mode="mirror")
        np.testing.assert_allclose(after, expected, atol=1e-5)


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0])
def test_the_standard_deviation_of_the_blur_is_uniform_between_1_and_2_pixels_times_level(level):
    points = np.zeros((10_000, 5, 5), np.float32)
    points[:, 2, 2] = 1
    blurred = noise.apply("blur", points, level, generator()).astype(float)
    sigmas = np.sqrt(-0.5 / np.log(blurred[:, 2, 1] / blurred[:, 2, 2]))
    assert stats.kstest(sigmas, stats.uniform(level, level).cdf).pvalue > 0.01
    assert abs(sigmas.mean() - 1.5 * level) < 4 * level / math.sqrt(12 * 10_000)


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0])
def test_gaussian_noise_is_normal_independent_and_not_clipped(level, images):
    many = np.resize(images, (1_000, SIDE, SIDE))
    added = noise.apply("gaussian", many, level, generator()).astype(float) - many
    assert stats.kstest(added.ravel()[:100_000], stats.norm(0, 0.5 * level).cdf).pvalue > 0.01
    assert abs(added.std() / (0.5 * level) - 1) < 4 / math.sqrt(2 * added.size)
    for other in (added[:, 1:] * added[:, :-1], added[:, :, 1:] * added[:, :, :-1], added[1:] * added[:-1]):
        assert abs(other.mean()) < 4 * (0.5 * level) ** 2 / math.sqrt(other.size)


def described_rectangle(rng: random.Random, side, level):
    """Top, left, height, width of one image's erased rectangle, as random erasing is described in words."""
    if rng.random() < min(1, 0.5 * level):
        for _ in range(10):
            area = side * side * rng.uniform(0.02, 0.33)
            ratio = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height < side and width < side:
                return rng.randint(0, side - height), rng.randint(0, side - width), height, width
    return 0, 0, 0, 0


@pytest.mark.parametrize(("side", "level"), [(28, 0.5), (28, 1.0), (28, 3.0), (3, 1.0), (3, 2.0)])
def test_erased_rectangles_are_those_of_the_description(side, level):
    n, rng = 10_000, random.Random(0)
    erased = noise.apply("erasing", np.ones((n, side, side), np.float32), level, generator()) == -1
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    size = rows.sum(axis=1), columns.sum(axis=1)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None, :])
    np.testing.assert_array_equal(np.abs(np.diff(np.pad(rows, ((0, 0), (1, 1))))).sum(axis=1), 2 * rows.any(axis=1))
    found = np.stack([rows.argmax(axis=1), columns.argmax(axis=1), *size], axis=1)
    expected = np.array([described_rectangle(rng, side, level) for _ in range(n)])
    found, expected = (r[(r[:, 2:] > 0).all(axis=1)] for r in (found, expected))
    share = len(expected) / n
    assert abs(len(found) / n - share) < 4 * math.sqrt(2 * max(share * (1 - share), 1 / n) / n)
    for measure in (*np.eye(4), [2, 0, 1, 0], [0, 2, 0, 1], [0, 0, 1, 1], [0, 0, 1, -1]):
        assert stats.ks_2samp(found @ measure, expected @ measure).pvalue > 1e-4
    assert stats.ks_2samp(found[:, 2] * found[:, 3], expected[:, 2] * expected[:, 3]).pvalue > 1e-4


def test_the_erased_area_is_uniform_and_its_aspect_ratio_log_uniform():
    *_, height, width = noise._rectangles(20_000, 1_000, 2.0, generator()).T.astype(float)
    area, ratio = height * width / 1e6, height / width
    assert (height > 0).all()
    assert stats.kstest(area, stats.uniform(0.02, 0.31).cdf).pvalue > 0.01
    assert stats.kstest(ratio, stats.loguniform(0.3, 3.3).cdf).pvalue > 0.01
    np.testing.assert_allclose([area.min(), area.max()], [0.02, 0.33], rtol=0.01)
    np.testing.assert_allclose([ratio.min(), ratio.max()], [0.3, 3.3], rtol=0.01)


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0])
def test_displacements_are_uniform_numbers_smoothed_over_41_reflected_pixels_times_25_level(level):
    draws = 2 * generator(5).random((3, 2, SIDE, SIDE), dtype=np.float32).astype(float) - 1
    taps = np.exp(-0.5 * (np.arange(-20, 21) / 5) ** 2)
    padded = np.pad(draws, ((0, 0), (0, 0), (20, 20), (20, 20)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (41, 41), axis=(2, 3))
    expected = 25 * level * np.einsum("ncyxij,i,j->ncyx", windows, taps, taps, optimize=True) / taps.sum() ** 2
    np.testing.assert_allclose(noise._displacements(3, SIDE, level, generator(5)).swapaxes(0, 1), expected, atol=2e-6)


@pytest.mark.parametrize("side", [8, 9, 28, 32, 65])
def test_displacements_are_those_of_scipys_filter_to_the_resolution_of_float32(side):
    draws = 2 * generator().random((40, 2, side, side), dtype=np.float32).astype(float) - 1
    expected = 25 * ndimage.gaussian_filter(draws, sigma=5, axes=(2, 3), mode="mirror", radius=20)
    found = noise._displacements(40, side, 1.0, generator()).swapaxes(0, 1)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("side", [9, 28, 64])
def test_smoothing_rounds_nothing_so_that_every_processor_gives_the_same_bits(side):
    draws = (generator().random((6, 2, side, side), dtype=np.float32).astype(float) - 0.5) * 2**24
    whole, smoothing = draws.astype(np.int64), (noise._smoothing(side) * 2**29).astype(np.int64)
    assert (whole == draws).all()
    assert (smoothing == noise._smoothing(side) * 2**29).all()
    # The largest sums that there can be: below 2^53, up to which float64 has every whole number.
    assert 2**23 * smoothing.sum(axis=1).max() < 2**53
    columns = np.rint((smoothing @ whole) / 2**29).astype(np.int64)
    exact = ((columns @ smoothing.T) * 2.0**-29 * (50 / 2**24)).astype(np.float32)
    assert noise._displacements(6, side, 1.0, generator()).swapaxes(0, 1).tobytes() == exact.tobytes()


def test_a_pixel_in_the_middle_is_displaced_as_far_as_theory_says():
    taps = np.exp(-0.5 * (np.arange(-20, 21) / 5) ** 2)
    theory = 25 * math.sqrt(1 / 3) * (taps**2).sum() / taps.sum() ** 2
    middle = noise._displacements(2_000, 41, 1.0, generator())[:, :, 20, 20].T.astype(float)
    assert (np.abs(middle.std(axis=0) / theory - 1) < 4 / math.sqrt(2 * 2_000)).all()
    assert (np.abs(middle.mean(axis=0)) < 4 * theory / math.sqrt(2_000)).all()
    assert abs(np.corrcoef(middle.T)[0, 1]) < 4 / math.sqrt(2_000)


@pytest.mark.parametrize("level", [1.0, 4.0])
def test_elastic_looks_each_pixel_up_where_it_is_displaced_to(level, images):
    noised = noise.apply("elastic", images, level, generator(6))
    displacements = noise._displacements(len(images), SIDE, level, generator(6)).swapaxes(0, 1)
    positions = np.mgrid[:SIDE, :SIDE] + displacements
    expected = [looked_up(image, *rows_columns) for image, rows_columns in zip(images, positions, strict=True)]
    np.testing.assert_allclose(noised, expected, atol=2e-5)


def test_displacements_of_whole_pixels_move_an_image_and_bring_background_in(images):
    points = (np.mgrid[:SIDE, :SIDE] + np.array([3, -2])[:, None, None])[:, None].astype(np.float32)
    moved = image_operations.looked_up(images[:1], points, -1.0)[0]
    np.testing.assert_array_equal(moved[:-3, 2:], images[0, 3:, :-2])
    assert (moved[-3:] == -1).all()
    assert (moved[:, :2] == -1).all()


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0])
def test_rotation_turns_bilinearly_about_the_centre(level, images):
    noised = noise.apply("rotation", images, level, generator(7))
    angles = np.radians(generator(7).uniform(0, 30 * level, len(images)))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    for image, after, angle in zip(images, noised, angles, strict=True):
        rows, columns = x * np.sin(angle) + y * np.cos(angle), x * np.cos(angle) - y * np.sin(angle)
        expected = looked_up(image, rows + (SIDE - 1) / 2, columns + (SIDE - 1) / 2)
        np.testing.assert_allclose(after, expected, atol=1e-4)


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0])
def test_the_angle_is_uniform_up_to_30_degrees_times_level_counter_clockwise(level):
    n, centre = 4_000, (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE] - centre
    right_of_the_centre = 2 * np.exp(-((x - 8) ** 2 + y**2) / 4) - 1
    noised = noise.apply("rotation", np.broadcast_to(right_of_the_centre, (n, SIDE, SIDE)), level, generator())
    up, right = -((noised + 1) * y).sum(axis=(1, 2)), ((noised + 1) * x).sum(axis=(1, 2))
    angles = np.degrees(np.arctan2(up, right))
    assert stats.kstest(angles, stats.uniform(0, 30 * level).cdf).pvalue > 0.01
    assert abs(angles.mean() - 15 * level) < 4 * 30 * level / math.sqrt(12 * n)


def test_a_users_noise_works_by_its_path_even_in_place(images):
    before = images.copy()
    np.testing.assert_array_equal(noise.apply("users_noises:darkened_in_place", images, 0.5, generator()), before - 0.5)
    np.testing.assert_array_equal(images, before)


def test_a_noise_that_users_register_may_work_in_place_too(images, monkeypatch):
    monkeypatch.setattr(noise.NOISES, "_entries", dict(noise.NOISES._entries))
    noise.NOISES.register("darkened")(users_noises.darkened_in_place)
    before = images.copy()
    np.testing.assert_array_equal(noise.apply("darkened", images, 0.5, generator()), before - 0.5)
    np.testing.assert_array_equal(images, before)


RETURNED = {
    "one image": (lambda images: images[0], "returned the shape"),
    "nothing": (lambda images: None, "must return an array of float32"),
    "complex numbers": (lambda images: images * 1j, "must return an array of float32"),
    "ragged lists": (lambda images: [[1.0], [1.0, 2.0]], "must return an array of float32"),
    "pixel values": (lambda images: (127.5 * (images + 1)).astype(np.uint8), "uint8 has no room for -1"),
    "truth": (lambda images: images > 0, "bool has no room"),
    "pixel values as floats": (lambda images: 127.5 * (images + 1), "up to 255: -1 is black"),
    "not a number": (lambda images: np.where(images < 0, np.nan, images), "not finite"),
    "too large for float32": (lambda images: images.astype(float) + 1e300, "not finite"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", RETURNED)
def test_a_users_noise_that_returns_something_else_is_reported_by_name(what, images, monkeypatch):
    returned, message = RETURNED[what]
    monkeypatch.setattr("users_noises.wrong", lambda images, level, rng: returned(images), raising=False)
    with pytest.raises(StudyError, match=f"the noise 'users_noises:wrong' .*{message}"):
        noise.apply("users_noises:wrong", images, 1.0, generator())


def test_a_users_noise_that_does_not_take_its_chance_from_rng_is_refused_when_it_is_first_applied(images):
    with pytest.raises(StudyError, match=r"the noise 'users_noises:of_the_global_generator' .* chance from rng"):
        noise.apply("users_noises:of_the_global_generator", images, 1.0, generator())
