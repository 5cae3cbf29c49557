"""The layers of small CNNs with the batch as the innermost axis, for XLA: forward passes and their gradients.

Library kernels are written for many channels; with one to eight of them they leave most of a CPU idle. With the layout
[M, channels, height, width, batch] a convolution is a sum of shifted slices times one number per tap, which XLA turns
into vector instructions over the batch. M is the number of models; images that all models share have M = 1.

Every layer is a function of its input and weights that returns its output and its pullback: from the gradient of the
output (and whether that of the input is wanted) to the gradients of the input and of the weights, in Keras's order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from cnnsim_tf.training.architecture import Conv, Flatten, Layer, Network, Pool, Relu, Scale

# A convolution of at most so many weights (bias apart) is a sum of shifted slices, and a larger one a matrix product
# over patches: see `convolved`.
SHIFTED_WEIGHTS = 600
SHIFTED_SIDE = 32  # of the output, since the filter gradient of the first kind is a sum written out over the columns

Pullback = Callable[[Any, bool], tuple[Any, list]]
Keep = Callable[[Any], Any]  # gives back its tensor, and makes XLA compute it once and hold it in memory


def logits(net: Network, flat: Any, images: Any, keep: Keep) -> tuple[Any, Callable[[Any], Any]]:
    """Return the logits of M networks and their pullback to the weights.

    Args:
        net: the architecture.
        flat: all weights of a network in one row, [M, P] float32.
        images: [M or 1, side, side, B] or [M or 1, side, side, 3, B] float32.
        keep: gives back its tensor, and makes XLA hold it in memory.

    Returns:
        Logits [M, classes, B], and the function from their gradient to that of `flat`, [M, P].
    """
    weights = iter(
        tf.reshape(part, (-1, *shape))
        for part, shape in zip(tf.split(flat, [math.prod(s) for s in net.shapes], 1), net.shapes, strict=True)
    )
    x = images[:, None] if len(images.shape) == 4 else tf.transpose(images, (0, 3, 1, 2, 4))
    pullbacks = []
    for layer, count in zip(net.layers, net.counts, strict=True):
        x, pullback = _applied(layer, x, [next(weights) for _ in range(count)], keep)
        pullbacks.append(pullback)
    first = next(at for at, count in enumerate(net.counts) if count)  # nobody wants the gradient of the images

    def gradient(g: Any) -> Any:
        parts: list = []
        for at in range(len(pullbacks) - 1, first - 1, -1):
            g, of_weights = pullbacks[at](g, at > first)
            parts = of_weights + parts
        return tf.concat([tf.reshape(part, (part.shape[0], -1)) for part in parts], 1)

    return x, gradient


def _applied(layer: Layer, x: Any, weights: Sequence[Any], keep: Keep) -> tuple[Any, Pullback]:
    match layer:
        case Conv():
            return _conv(layer, x, weights, keep)
        case Pool():
            return _pool(layer, x, keep)
        case Scale():
            return layer.scale * x + layer.offset, lambda g, wanted: (layer.scale * g, [])
        case Relu():
            y = tf.nn.relu(x)
            return y, lambda g, wanted: (tf.where(y > 0, g, 0.0), [])
        case Flatten():
            rows_first = tf.transpose(x, (0, 2, 3, 1, 4))
            flat = tf.reshape(rows_first, (x.shape[0], -1, x.shape[-1]))
            return flat, lambda g, wanted: (tf.transpose(tf.reshape(g, rows_first.shape), (0, 3, 1, 2, 4)), [])
    return _dense(x, weights)


def _dense(x: Any, weights: Sequence[Any]) -> tuple[Any, Pullback]:
    kernel, *bias = weights
    y = tf.matmul(kernel, x, transpose_a=True)

    def pullback(g: Any, wanted: bool) -> tuple[Any, list]:
        of_weights = [tf.matmul(x, g, transpose_b=True), *(tf.reduce_sum(g, 2) for _ in bias)]
        return tf.matmul(kernel, g) if wanted else None, of_weights

    return (y + bias[0][:, :, None] if bias else y), pullback


def _pool(layer: Pool, x: Any, keep: Keep) -> tuple[Any, Pullback]:
    """Return the maxima of windows; the gradient goes to the first maximum of a window, as in TensorFlow."""
    (p, q), (models, channels, height, width, batch) = layer.size, x.shape
    h, w = height // p, width // q
    corners = [x[:, :, i : h * p : p, j : w * q : q] for i in range(p) for j in range(q)]
    y, first = corners[0], tf.zeros_like(corners[0])
    for at, corner in enumerate(corners[1:], 1):
        first = tf.where(corner > y, float(at), first)
        y = tf.maximum(y, corner)

    def pullback(g: Any, wanted: bool) -> tuple[Any, list]:
        which = tf.reshape(tf.range(float(p * q)), (1, 1, 1, p, 1, q, 1))
        here = keep(first)[:, :, :, None, :, None] == which
        spread = tf.where(here, keep(g)[:, :, :, None, :, None], 0.0)
        spread = tf.reshape(spread, (models, channels, h * p, w * q, batch))
        return _padded(spread, (0, height - h * p, 0, width - w * q)), []

    return keep(y), pullback


def _conv(layer: Conv, x: Any, weights: Sequence[Any], keep: Keep) -> tuple[Any, Pullback]:
    (rows, columns), (top, bottom, left, right) = layer.kernel, layer.pads
    kernel, *bias = weights
    padded = keep(_padded(x, layer.pads))  # within the sums it would cost a branch per element
    y = convolved(padded, kernel)

    def pullback(g: Any, wanted: bool) -> tuple[Any, list]:
        g = keep(g)
        of_weights = [filter_gradient(padded, g, kernel.shape, keep)]
        of_weights += [_batch_sum(tf.reduce_sum(g, (2, 3)), keep) for _ in bias]
        if not wanted:
            return None, of_weights
        pads = (rows - 1 - top, rows - 1 - bottom, columns - 1 - left, columns - 1 - right)
        turned = tf.transpose(kernel[:, ::-1, ::-1], (0, 1, 2, 4, 3))
        return keep(convolved(keep(_padded(g, pads)), turned)), of_weights

    return keep(y + bias[0][:, :, None, None, None] if bias else y), pullback


def _padded(x: Any, pads: tuple[int, int, int, int]) -> Any:
    top, bottom, left, right = pads
    return tf.pad(x, [[0, 0], [0, 0], [top, bottom], [left, right], [0, 0]]) if any(pads) else x


def _is_shifted(kernel_shape: Sequence[int], columns_out: int) -> bool:
    return math.prod(kernel_shape[1:]) <= SHIFTED_WEIGHTS and columns_out <= SHIFTED_SIDE


def convolved(padded: Any, kernel: Any) -> Any:
    """Return valid convolutions (as Keras means it, unflipped) of [M, C, H, W, B] with [M, rows, columns, C, O].

    Kernels of up to SHIFTED_WEIGHTS weights are sums of shifted slices, all output channels in one expression.
    Larger ones are a matrix product with patches. A CNN of two 3x3 convolutions trained 106,000 images/s on one core
    with sums and 45,000 with products where it had 4 and 8 filters, 53,000 and 32,000 with 8 and 8, 25,600 and 21,800
    with 8 and 16 (28x28 images in batches of 64); compiling took up to twice as long with sums, 1.6 s for the last.
    """
    _, rows, columns, channels, filters = kernel.shape
    h, w = padded.shape[2] - rows + 1, padded.shape[3] - columns + 1
    if _is_shifted(kernel.shape, w):
        terms = [
            padded[:, c : c + 1, i : i + h, j : j + w] * kernel[:, i, j, c, :, None, None, None]
            for c in range(channels)
            for i in range(rows)
            for j in range(columns)
        ]
        return sum(terms[1:], terms[0])
    products = tf.matmul(
        tf.reshape(kernel, (-1, rows * columns * channels, filters)), _patches(padded, rows, columns), transpose_a=True
    )
    return tf.reshape(products, (-1, filters, h, w, padded.shape[-1]))


def filter_gradient(padded: Any, g: Any, kernel_shape: Sequence[int], keep: Keep) -> Any:
    """Return the gradient of the kernel [M, rows, columns, C, O] from that of the output, [M, O, h, w, B].

    For small kernels the products of a tap in a row of the image are summed in one expression, in registers, since XLA
    would write every product of a plain sum to memory. Row by row, all taps of a column meet the same few rows while
    these are in the core's nearest cache.
    """
    _, rows, columns, channels, filters = kernel_shape
    models, _, h, w, _ = g.shape
    if not _is_shifted(kernel_shape, w):
        patches = _patches(padded, rows, columns)
        product = tf.matmul(patches, tf.reshape(g, (models, filters, -1)), transpose_b=True)
        return tf.reshape(product, (models, rows, columns, channels, filters))
    by_row = tf.transpose(padded, (0, 2, 1, 3, 4))
    shifted = tf.stack([by_row[:, i : i + h] for i in range(rows)], 2)  # [M, h, rows, C, W, B]
    g = tf.transpose(g, (0, 2, 1, 3, 4))  # [M, h, O, w, B]
    sums = []
    for j in range(columns):
        terms = [shifted[:, :, :, :, None, j + column] * g[:, :, None, None, :, column] for column in range(w)]
        sums.append(tf.reduce_sum(sum(terms[1:], terms[0]), 1))
    return _batch_sum(tf.stack(sums, 2), keep)


def _batch_sum(x: Any, keep: Keep) -> Any:
    """Return sums over the batch of what was summed over something else before.

    XLA would make one sum of both, which adds up the batch at every step of the other one, number by number.
    """
    return tf.reduce_sum(keep(x), -1)


def _patches(padded: Any, rows: int, columns: int) -> Any:
    """Return what each tap sees, [M, rows·columns·C, h·w·B]."""
    models, channels, height, width, _ = padded.shape
    h, w = height - rows + 1, width - columns + 1
    taps = [padded[:, :, i : i + h, j : j + w] for i in range(rows) for j in range(columns)]
    return tf.reshape(tf.stack(taps, 1), (models, rows * columns * channels, -1))
