"""What noises have TensorFlow do to images: by tensorflow-addons, or the same bit for bit where it has no wheel.

There is none for Linux on ARM. `transform`, `rotate` and `dense_image_warp` take images [n, height, width, channels]
float32 and return as many of the same size; the other three are what noises call, and keep to the CPU: a GPU rounds
differently, and the same seed must give the same images on every machine. Points are in pixels: (0, 0) is the centre of
the top left pixel.
"""

import warnings

import numpy as np
import tensorflow as tf

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


def _dense_image_warp(image: tf.Tensor, flow: tf.Tensor) -> tf.Tensor:
    """Return images whose pixel p is the input's p - flow, bilinear; outside, border pixels repeat.

    Args:
        image: at least 2 pixels high and wide.
        flow: [n, height, width, 2 (y, x)] float32 pixels.
    """
    n, height, width, channels = tf.unstack(tf.shape(image))
    y = tf.range(height, dtype=tf.float32)[:, None] - flow[..., 0]
    x = tf.range(width, dtype=tf.float32) - flow[..., 1]
    top, down = _cell(y, height)
    left, right = _cell(x, width)
    pixels = tf.reshape(image, [n * height * width, channels])
    corner = (tf.range(n)[:, None, None] * height + top) * width + left
    top_left, top_right = tf.gather(pixels, corner), tf.gather(pixels, corner + 1)
    bottom_left, bottom_right = tf.gather(pixels, corner + width), tf.gather(pixels, corner + width + 1)
    above = right * (top_right - top_left) + top_left
    below = right * (bottom_right - bottom_left) + bottom_left
    return down * (below - above) + above


def _cell(points: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the pixel before each of the points on an axis, int32, and how far beyond it each is, [..., 1] in 0..1."""
    # At most the last pixel but one, so that the one after it is in the image as well.
    before = tf.minimum(tf.maximum(0.0, tf.floor(points)), tf.cast(size - 2, tf.float32))
    return tf.cast(before, tf.int32), tf.minimum(tf.maximum(0.0, points - before), 1.0)[..., None]


try:
    with warnings.catch_warnings():
        # Its import says that tensorflow-addons is at its end of life. The project knows and pins the last release;
        # its user can do nothing about it.
        warnings.simplefilter("ignore", UserWarning)
        from tensorflow_addons.image import dense_image_warp, rotate, transform
except ImportError:
    transform, rotate, dense_image_warp = _transform, _rotate, _dense_image_warp


def projected(images: np.ndarray, transforms: np.ndarray, background: float) -> np.ndarray:
    """Return images [n, S, S] float32 under projections [n, 8] float32 (see `_transform`), bilinear."""
    with tf.device(CPU):
        return transform(images[..., None], transforms, "bilinear", fill_value=background).numpy()[..., 0]


def rotated(images: np.ndarray, angles: np.ndarray, background: float) -> np.ndarray:
    """Return images [n, S, S] float32, each rotated counter-clockwise by its angle of [n] float32 radians, bilinear."""
    with tf.device(CPU):
        return rotate(images[..., None], angles, "bilinear", fill_value=background).numpy()[..., 0]


def warped(images: np.ndarray, displacements: np.ndarray, background: float) -> np.ndarray:
    """Return images [n, S, S] float32 whose pixel p is the input's p + displacement, bilinear.

    Args:
        images: to look up in.
        displacements: [n, 2 (y, x), S, S] float32 pixels.
        background: what is outside the images.
    """
    return _warped(images, displacements, tf.constant(background)).numpy()


@tf.function(
    # Spelled out, so that it is traced once and not anew for every number of images.
    input_signature=[
        tf.TensorSpec([None, None, None], tf.float32),
        tf.TensorSpec([None, 2, None, None], tf.float32),
        tf.TensorSpec([], tf.float32),
    ]
)
def _warped(images: tf.Tensor, displacements: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    with tf.device(CPU):
        # dense_image_warp repeats the border pixels outward, and a frame of background makes those background.
        framed = tf.pad(images, [[0, 0], [1, 1], [1, 1]], constant_values=background)
        flow = tf.transpose(tf.pad(-displacements, [[0, 0], [0, 0], [1, 1], [1, 1]]), [0, 2, 3, 1])
        return dense_image_warp(framed[..., None], flow)[:, 1:-1, 1:-1, 0]
