"""The six noises: how a subset's images are corrupted, and how a user's own noise is applied.

Geometry is in pixels: x points right, y points down, (0, 0) is the centre of the top left pixel and (S-1, S-1) that
of the bottom right one. Whatever comes from outside an image is background.

Every noise takes images float32 in [-1, 1], which it leaves as they are, a level of 0 or more (1 is the published
strength) and a generator, from which all its random numbers come; it returns float32 of the same shape. Images are grey
([N, S, S]) or of colours ([N, S, S, 3]): as in torchvision, what is drawn for an image holds for all of its channels,
but for gaussian, which draws for every number.
"""

import functools
import types
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.images import channels_of, with_channels
from cnnsim_tf.registry import Registry

Noise = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
NOISES: Registry[Noise] = Registry("noise", chance="rng")

BACKGROUND = -1.0
CHUNK = 128  # images worked on at a time: their intermediate arrays stay in the processor's cache
ERASING_DRAWS = 10
LARGEST = 100  # value that a noise may return; pixel values of 0 to 255 are beyond it
_INWARD = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])  # (x, y) from the corners, clockwise from the top left one


def apply(name: str, images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return the images with a noise on them.

    Args:
        name: a registered noise, or a user's own as `package.module:function`.
        images: [N, S, S] or [N, S, S, 3] float32 in [-1, 1]; not modified.
        level: strength, 0 or more; 1 is the published one. 0 gives back a copy bit for bit and draws nothing.
        rng: where all random numbers come from.

    Returns:
        As many of the same shape, float32, C-contiguous.

    Raises:
        ParameterError: there is no such noise.
        StudyError: the noise raised something or returned another shape, or values that are not finite float32
            numbers, or a user's own does not take its chance from rng (found when it is first applied).
    """
    noise = NOISES.get(name)
    # A user's noise may well work in place.
    given = np.array(images, dtype=np.float32, order="C", copy=not level or noise.__module__ != __name__)
    return _checked(name, NOISES.call(name, noise, given, level, rng), images.shape) if level else given


@NOISES.register("perspective")
def perspective(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Move the four corners of every image inward, the rest along with them.

    Each corner moves by whole pixels, drawn uniformly from 0..floor(distortion * (S // 2)) in x and in y, where
    distortion is 0.3 * level, but at most 1 (reached at level 10/3), where every corner may come to the centre.
    Bilinear interpolation. As torchvision's v2.RandomPerspective(0.3, p=1), but for
    corners that pass each other (only possible beyond level 2), which are drawn again.
    """
    transforms = _homographies(_corner_offsets(len(images), images.shape[1], level, rng), images.shape[1])
    return _image_operations().projected(images, transforms, BACKGROUND)


@NOISES.register("blur")
def blur(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Blur every image with a Gaussian of its own.

    The kernel is 5x5 pixels, its standard deviation drawn uniformly from (1, 2) * level pixels; images are reflected
    at their borders (without repeating the border pixels). As torchvision's v2.GaussianBlur(5, sigma=(1, 2)).
    """
    side, channels = images.shape[1], channels_of(images)
    kernels_nk = np.repeat(_gaussian_kernels(level * rng.uniform(1, 2, len(images))), channels, axis=0)
    planes = np.moveaxis(with_channels(images), 3, 1).reshape(-1, side, side)  # a colour image is three grey ones here
    blurred = np.empty_like(planes)
    for chunk in _chunks(len(planes)):
        # The images are on the last axis, and kernels there for every row, so that numpy's inner loops are long.
        kernels_krn = np.repeat(kernels_nk[chunk].T[:, None], side + 4, axis=1)
        turned = np.ascontiguousarray(planes[chunk].reshape(-1, side**2).T).reshape(side, side, -1)
        padded = np.pad(turned, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        columns = _weighted_sum(kernels_krn, [padded[k : k + side] for k in range(5)])
        rows = _weighted_sum(kernels_krn[:, :side], [columns[:, k : k + side] for k in range(5)])
        blurred[chunk] = rows.reshape(side**2, -1).T.reshape(-1, side, side)
    return np.moveaxis(blurred.reshape(-1, channels, side, side), 1, 3).reshape(images.shape)


@NOISES.register("gaussian")
def gaussian(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise with mean 0 and standard deviation 0.5 * level to every pixel, without clipping.

    As torchvision's v2.GaussianNoise(sigma=0.5, clip=False).
    """
    noised = np.empty_like(images)
    for chunk in _chunks(len(images)):
        rng.standard_normal(out=noised[chunk], dtype=np.float32)
        noised[chunk] *= np.float32(0.5 * level)
        noised[chunk] += images[chunk]
    return noised


@NOISES.register("erasing")
def erasing(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Set a rectangle of some images to background.

    An image is erased with probability min(1, 0.5 * level). Its rectangle has a fraction of the image's area drawn
    uniformly from (0.02, 0.33) and an aspect ratio (height / width) drawn log-uniformly from (0.3, 3.3), in whole
    pixels, at a uniform position; up to 10 draws until it is less high and less wide than the image, which stays
    untouched if none is. Zhong et al. 2017, Random Erasing Data Augmentation; as torchvision's
    v2.RandomErasing(p=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=-1).
    """
    top, left, height, width = _rectangles(len(images), images.shape[1], level, rng).T[..., None]
    pixels = np.arange(images.shape[1])
    rows = (pixels >= top) & (pixels < top + height)
    columns = (pixels >= left) & (pixels < left + width)
    erased = images.copy()
    for chunk in _chunks(len(images)):
        inside = rows[chunk, :, None] & columns[chunk, None, :]
        np.copyto(with_channels(erased[chunk]), BACKGROUND, where=with_channels(inside))
    return erased


@NOISES.register("elastic")
def elastic(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Displace every pixel by a smooth random field.

    Displacements are uniform in (-1, 1) per pixel and axis, smoothed by a Gaussian of sigma 5 pixels (41 taps,
    reflected borders), times 25 * level pixels: alpha = 50 * level in units where the image is 2 wide, divided by S.
    Bilinear interpolation. Simard, Steinkraus and Platt 2003, Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis; as torchvision's v2.ElasticTransform(alpha=50, sigma=5).
    """
    side, warped = images.shape[1], np.empty_like(images)
    pixels = np.indices((side, side), np.float32)[:, None]
    for chunk in _chunks(len(images)):
        points = _displacements(len(images[chunk]), side, level, rng)
        points += pixels
        warped[chunk] = _image_operations().looked_up(images[chunk], points, BACKGROUND)
    return warped


@NOISES.register("rotation")
def rotation(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Rotate every image about its centre, counter-clockwise as displayed.

    The angle is drawn uniformly from (0, 30) * level degrees. Bilinear interpolation. As torchvision's
    v2.RandomRotation((0, 30)).
    """
    angles = np.radians(rng.uniform(0, 30 * level, len(images))).astype(np.float32)
    return _image_operations().rotated(images, angles, BACKGROUND)


def _image_operations() -> types.ModuleType:
    from cnnsim_tf import image_operations  # here, since TensorFlow takes seconds, and names of noises need none of it

    return image_operations


def _checked(name: str, noised: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return what a noise returned as C-contiguous float32."""
    try:
        found = np.asarray(noised)
        if found.dtype.kind in "iub":
            raise TypeError(f"{found.dtype} has no room for -1, which is black, to 1, which is white")
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is reported below
            result = found.astype(np.float32, order="C", casting="same_kind", copy=False)
    except (TypeError, ValueError) as error:
        raise StudyError(f"the noise {name!r} must return an array of float32 numbers: {error}") from error
    if result.shape != shape:
        raise StudyError(f"the noise {name!r} returned the shape {result.shape}: it must return its images' {shape}")
    low, high = float(result.min(initial=0)), float(result.max(initial=0))  # NaN if one value is
    if not np.isfinite([low, high]).all():
        raise StudyError(f"the noise {name!r} returned values that are not finite: it must return float32 numbers")
    if (largest := max(-low, high)) > LARGEST:
        raise StudyError(
            f"the noise {name!r} returned values of up to {largest:.4g}: -1 is black and 1 is white, and where a noise "
            f"adds to that, {LARGEST} is the most, so leave the scale of images as it is"
        )
    return result


def _chunks(n: int) -> Iterator[slice]:
    """Cut n images into slices; noises draw image by image, so that the results do not depend on the cuts."""
    return (slice(start, start + CHUNK) for start in range(0, n, CHUNK))


def _corner_offsets(n: int, side: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return how far inward the corners move: [n, 4, 2] int64 pixels, >= 0.

    Corners are top left, top right, bottom right, bottom left; axes x, y. Beyond level 2, corners can pass each other
    or come to lie on one line, where no view of a whole image can have them: such images' corners are drawn again.
    """
    most = int(min(0.3 * level, 1.0) * (side // 2))
    offsets = rng.integers(0, most, size=(n, 4, 2), endpoint=True)
    while len(folded := np.flatnonzero(~_convex(_corners(side) + _INWARD * offsets))):
        offsets[folded] = rng.integers(0, most, size=(len(folded), 4, 2), endpoint=True)
    return offsets


def _corners(side: int) -> np.ndarray:
    """Return the (x, y) of an image's corners, clockwise as displayed from the top left one: [4, 2] int64."""
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (side - 1)


def _convex(corners: np.ndarray) -> np.ndarray:
    """Tell which quadrilaterals [n, 4, 2] turn clockwise at each corner: [n] bool."""
    edges = np.roll(corners, -1, axis=1) - corners
    return (_cross(edges, np.roll(edges, -1, axis=1)) > 0).all(axis=(1, 2))


def _homographies(offsets: np.ndarray, side: int) -> np.ndarray:
    """Return the projections from output to input that show the input's corners moved inward by [n, 4, 2] pixels.

    In closed form and in whole numbers up to the last division: a linear solver's last bits differ between
    processors. Heckbert 1989, Fundamentals of Texture Mapping and Image Warping, section 2.2.3.

    Returns:
        [n, 8] float32, rows (a0, a1, a2, b0, b1, b2, c0, c1): the output's (x, y) shows the input's
        ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k), where k = c0 x + c1 y + 1.
    """
    corners = _corners(side) + _INWARD * offsets.astype(float)
    origin, right, far, down = np.append(corners, np.ones_like(corners[..., :1]), axis=-1).swapaxes(0, 1)
    # From the unit square: u * along_x + v * along_y + at_0, up to a common factor.
    skew = origin - right + far - down
    scale = _cross(right - far, down - far)
    g, h = _cross(skew, down - far), _cross(right - far, skew)
    at_0 = scale * origin
    along_x, along_y = (scale + g) * right - at_0, (scale + h) * down - at_0
    # Its inverse, again up to a common factor.
    u, v, k = np.cross(along_y, at_0), np.cross(at_0, along_x), np.cross(along_x, along_y)
    transforms = np.concatenate([u * (side - 1), v * (side - 1), k], axis=-1)
    # At strong distortions the output's (0, 0) can show a point at infinity; a very far one does as well.
    last = np.where(transforms[:, 8:] == 0, 1e-6, transforms[:, 8:])
    return (transforms[:, :8] / last).astype(np.float32)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross products in the plane of vectors [..., 2 or more], whose first two entries count: [..., 1]."""
    return a[..., :1] * b[..., 1:2] - a[..., 1:2] * b[..., :1]


def _gaussian_kernels(sigmas: np.ndarray) -> np.ndarray:
    """Return a 5-tap Gaussian kernel for each of [n] standard deviations in pixels: [n, 5] float32, rows sum to 1."""
    # Below 0.02 pixels every tap but the central one is exactly 0 anyway; the bound keeps x / sigma finite.
    kernels = np.exp(-0.5 * (np.arange(-2, 3) / np.maximum(sigmas, 0.01)[:, None]) ** 2)
    return (kernels / kernels.sum(axis=1, keepdims=True)).astype(np.float32)


def _weighted_sum(weights: np.ndarray, terms: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum of terms, each times its weights, from the first to the last."""
    total = weights[0] * terms[0]
    product = np.empty_like(total)
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total += np.multiply(weight, term, out=product)
    return total


def _rectangles(n: int, side: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return the rectangles to erase: [n, 4] int64 (top, left, height, width); height 0 leaves an image untouched."""
    erased = rng.random(n) < 0.5 * level
    areas = side**2 * rng.uniform(0.02, 0.33, (ERASING_DRAWS, n))
    ratios = np.exp(rng.uniform(np.log(0.3), np.log(3.3), (ERASING_DRAWS, n)))
    sizes = np.rint(np.sqrt([areas * ratios, areas / ratios])).astype(np.int64)
    fits = (sizes < side).all(axis=0)
    height, width = sizes[:, fits.argmax(axis=0), np.arange(n)] * (erased & fits.any(axis=0))
    top, left = rng.integers(0, side - height, endpoint=True), rng.integers(0, side - width, endpoint=True)
    return np.stack([top, left, height, width], axis=1)


def _displacements(n: int, side: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return where each output pixel comes from, relative to itself: [2 (y, x), n, side, side] float32 pixels."""
    from scipy.linalg.blas import dgemm  # here, since it takes a good part of a second

    draws, smoothing = rng.random((n, 2, side, side), dtype=np.float32), _smoothing(side)
    fields = np.empty((side, 2, n, side))  # x, y or x, image, y: a product contracts the last axis or the first
    np.subtract(draws.transpose(3, 1, 0, 2), 0.5, out=fields)
    # Multiples of 2^-24 below 1 times multiples of 2^-29: float64 has room for every partial sum, so that whatever
    # order a processor's BLAS sums in, and whether it fuses operations, nothing is rounded.
    once = dgemm(2.0**24, smoothing, fields.reshape(-1, side).T).T
    np.rint(once, out=once)  # whole numbers below 2^24, for which the same holds
    smooth = dgemm(1.0, smoothing, once.reshape(side, -1).T, trans_b=True).T
    smooth *= 50 * level / 2**24  # draws are of (-1/2, 1/2)
    return smooth.reshape(2, n, side, side).astype(np.float32)


@functools.lru_cache
def _smoothing(side: int) -> np.ndarray:
    """Return what smooths an axis by a Gaussian of sigma 5 pixels with 41 taps and reflected borders.

    Returns:
        [side, side] float64 of output and input pixel, in multiples of 2^-29.
    """
    taps = np.exp(-0.5 * (np.arange(-20, 21) / 5) ** 2)
    taps = np.rint(taps / taps.sum() * 2**29) / 2**29
    padded = np.pad(np.eye(side), ((20, 20), (0, 0)), mode="reflect")
    return np.asfortranarray(np.sum([tap * padded[k : k + side] for k, tap in enumerate(taps)], axis=0))
