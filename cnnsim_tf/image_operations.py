"""How noises move the pixels of images: by tensorflow-addons, or the same bit for bit where it has no wheel.

There is none for Linux on ARM. `transform` and `rotate` take images [n, height, width, channels] float32 and return as
many of the same size; the other three are what noises call, on grey images [n, S, S] and colour ones [n, S, S, 3], all
channels of which move together. They keep to the CPU: a GPU rounds differently, and the same seed must give the same
images on every machine. Points are in pixels: (0, 0) is the centre of the top left pixel.
"""

import warnings

import numpy as np
import tensorflow as tf

from cnnsim_tf.images import with_channels

CPU = "/CPU:0"


def _transform(
    images: tf.Tensor, transforms: tf.Tensor, interpolation: str = "nearest", *, fill_value: float = 0.0
) -> tf.Tensor:
    """Return images whose pixel (x, y) shows the input's ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k).

    Args:
        images: to look up in.
        transforms: [n, 8] float32, rows (a0, a1, a2, b0, b1, b2, c0, c1); k = c0 x + c1 y + 1.
        interpolation: nearest or bilinear.
        fill_value: what is outside the images.
    """
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=fill_value,
        interpolation=interpolation.upper(),
        fill_mode="CONSTANT",
    )


def _rotate(
    images: tf.Tensor, angles: tf.Tensor, interpolation: str = "nearest", *, fill_value: float = 0.0
) -> tf.Tensor:
    """Return images rotated counter-clockwise about their centre by angles [n] float32, in radians."""
    end_y, end_x = tf.unstack(tf.cast(tf.shape(images)[1:3], tf.float32) - 1)
    cos, sin = tf.cos(angles), tf.sin(angles)
    x_offset = (end_x - (cos * end_x - sin * end_y)) / 2
    y_offset = (end_y - (sin * end_x + cos * end_y)) / 2
    none = tf.zeros_like(cos)
    transforms = tf.stack([cos, -sin, x_offset, sin, cos, y_offset, none, none], axis=1)
    return _transform(images, transforms, interpolation, fill_value=fill_value)


try:
    with warnings.catch_warnings():
        # Its import says that tensorflow-addons is at its end of life. The project knows and pins the last release;
        # its user can do nothing about it.
        warnings.simplefilter("ignore", UserWarning)
        from tensorflow_addons.image import rotate, transform
except ImportError:
    transform, rotate = _transform, _rotate


def projected(images: np.ndarray, transforms: np.ndarray, background: float) -> np.ndarray:
    """Return images float32 under projections [n, 8] float32 (see `_transform`), bilinear."""
    with tf.device(CPU):
        shown = transform(with_channels(images), transforms, "bilinear", fill_value=background)
        return shown.numpy().reshape(images.shape)


def rotated(images: np.ndarray, angles: np.ndarray, background: float) -> np.ndarray:
    """Return images float32, each rotated counter-clockwise by its angle of [n] float32 radians, bilinear."""
    with tf.device(CPU):
        shown = rotate(with_channels(images), angles, "bilinear", fill_value=background)
        return shown.numpy().reshape(images.shape)


def looked_up(images: np.ndarray, points: np.ndarray, background: float) -> np.ndarray:
    """Return what images float32 show at points, bilinear.

    By numpy: tensorflow-addons' dense_image_warp gives the same but for rounding, and takes four times as long.

    Args:
        images: to look up in.
        points: [2 (y, x), n, S, S] float32 pixels; overwritten.
        background: what is outside the images.
    """
    n, side, width = len(images), images.shape[1], images.shape[1] + 3
    np.maximum(points, -1, out=points)
    np.minimum(points, side, out=points)
    cells = np.floor(points)
    points -= cells
    cells[0] *= width
    cells[0] += cells[1]
    first = cells[0].astype(np.intp)
    first += (np.arange(n) * width**2 + width + 1)[:, None, None]
    if images.ndim == 3:
        return _among(images, first, points, background)
    return np.stack([_among(channel, first, points, background) for channel in np.moveaxis(images, 3, 0)], axis=3)


def _among(images: np.ndarray, first: np.ndarray, shares: np.ndarray, background: float) -> np.ndarray:
    """Return what is at shares [2 (y, x), n, S, S] in 0..1 of the way from pixels of framed images to those after them.

    `first` are the pixels' positions in images [n, S, S] that are framed by one pixel before an image, two after it.
    """
    n, width = len(images), images.shape[1] + 3
    framed = np.full((n, width, width), background, np.float32)
    framed[:, 1:-2, 1:-2] = images
    above, below = (_between(framed.ravel()[row:], first, shares[1]) for row in (0, width))
    below -= above
    below *= shares[0]
    below += above
    return below


def _between(pixels: np.ndarray, first: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return what is at a share in 0..1 of the way from pixels at positions to those after them."""
    left, right = pixels.take(first, mode="clip"), pixels[1:].take(first, mode="clip")  # clip: not looked at twice
    right -= left
    right *= share
    right += left
    return right
