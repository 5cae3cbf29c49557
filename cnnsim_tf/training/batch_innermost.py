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

from cnnsim_tf.training.architecture import Conv, Flatten, Layer, Network, Pool, Relu

# A convolution of at most so many weights (bias apart) is a sum of shifted slices, and a larger one a matrix product
# over patches: see `convolved`.
SHIFTED_WEIGHTS = 300
SHIFTED_ROWS = 32  # of the output, since the filter gradient of the first kind is a sum written out over the rows

Pullback = Callable[[Any, bool], tuple[Any, list]]
Keep = Callable[[Any], Any]  # gives back its tensor, and makes XLA compute it once and hold it in memory


def logits(net: Network, flat: Any, images: Any, keep: Keep) -> tuple[Any, Callable[[Any], Any]]:
    """Return the logits of M networks and their pullback to the weights.

    Args:
        net: the architecture.
        flat: all weights of a network in one row, [M, P] float32.
        images: [M or 1, side, side, B] float32.
        keep: gives back its tensor, and makes XLA hold it in memory.

    Returns:
        Logits [M, classes, B], and the function from their gradient to that of `flat`, [M, P].
    """
    weights = iter(
        tf.reshape(part, (-1, *shape))
        for part, shape in zip(tf.split(flat, [math.prod(s) for s in net.shapes], 1), net.shapes, strict=True)
    )
    x, pullbacks = images[:, None], []
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
        of_weights = [filter_gradient(padded, g, kernel.shape)]
        of_weights += [tf.reduce_sum(tf.reduce_sum(g, (2, 3)), 2) for _ in bias]
        if not wanted:
            return None, of_weights
        pads = (rows - 1 - top, rows - 1 - bottom, columns - 1 - left, columns - 1 - right)
        turned = tf.transpose(kernel[:, ::-1, ::-1], (0, 1, 2, 4, 3))
        return keep(convolved(keep(_padded(g, pads)), turned)), of_weights

    return keep(y + bias[0][:, :, None, None, None] if bias else y), pullback


def _padded(x: Any, pads: tuple[int, int, int, int]) -> Any:
    top, bottom, left, right = pads
    return tf.pad(x, [[0, 0], [0, 0], [top, bottom], [left, right], [0, 0]]) if any(pads) else x


def _is_shifted(kernel_shape: Sequence[int], rows_out: int) -> bool:
    return math.prod(kernel_shape[1:]) <= SHIFTED_WEIGHTS and rows_out <= SHIFTED_ROWS


def convolved(padded: Any, kernel: Any) -> Any:
    """Return valid convolutions (as Keras means it, unflipped) of [M, C, H, W, B] with [M, rows, columns, C, O].

    Kernels of up to SHIFTED_WEIGHTS weights are sums of shifted slices, all output channels in one expression.
    Larger ones are a matrix product with patches. A training step of a CNN around one 3x3 convolution (14x14 outputs,
    64 images, one core) took 2.0 ms with sums and 4.2 ms with products for 4 to 8 channels, 4.1 and 4.9 ms for 8 to 8,
    8.5 and 7.7 ms for 8 to 16; compiling took two to three times as long with sums, 3 s for the last.
    """
    _, rows, columns, channels, filters = kernel.shape
    h, w = padded.shape[2] - rows + 1, padded.shape[3] - columns + 1
    if _is_shifted(kernel.shape, h):
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


def filter_gradient(padded: Any, g: Any, kernel_shape: Sequence[int]) -> Any:
    """Return the gradient of the kernel [M, rows, columns, C, O] from that of the output, [M, O, h, w, B].

    For small kernels the products of a row of taps are summed over the image's rows in one expression, in registers;
    XLA would write every product of a plain sum to memory first.
    """
    _, rows, columns, channels, filters = kernel_shape
    models, _, h, w, _ = g.shape
    if not _is_shifted(kernel_shape, h):
        patches = _patches(padded, rows, columns)
        product = tf.matmul(patches, tf.reshape(g, (models, filters, -1)), transpose_b=True)
        return tf.reshape(product, (models, rows, columns, channels, filters))
    shifted = tf.stack([padded[:, :, :, j : j + w] for j in range(columns)], 1)  # [M, columns, C, H, w, B]
    sums = []
    for i in range(rows):
        terms = [shifted[:, :, :, None, i + row] * g[:, None, None, :, row] for row in range(h)]
        sums.append(tf.reduce_sum(tf.reduce_sum(sum(terms[1:], terms[0]), 4), 4))
    return tf.stack(sums, 1)


def _patches(padded: Any, rows: int, columns: int) -> Any:
    """Return what each tap sees, [M, rows·columns·C, h·w·B]."""
    models, channels, height, width, _ = padded.shape
    h, w = height - rows + 1, width - columns + 1
    taps = [padded[:, :, i : i + h, j : j + w] for i in range(rows) for j in range(columns)]
    return tf.reshape(tf.stack(taps, 1), (models, rows * columns * channels, -1))
