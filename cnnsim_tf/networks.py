"""What is inside a network: its layers' outputs, dead units, statistics of units, gradients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.images import channels_of
from cnnsim_tf.network_graphs import NetworkGraphs, graphs_of
from cnnsim_tf.random_layers import int32_seeds

IMAGES_AT_ONCE = 500  # larger parts leave the cache and are slower on CPUs


@dataclass(frozen=True)
class LayerState:
    """What the L convolutional and dense layers of M networks give after their activation functions."""

    dead: np.ndarray  # [M, L] int64, units that give 0 for every image and position: with a ReLU, never positive
    mean: np.ndarray  # [M, L] float64, over all units, images and positions
    sd: np.ndarray  # [M, L] float64, the same, with n in the denominator


def layer_activations(
    cnn: str, weights: Sequence[np.ndarray], images: np.ndarray, classes: int
) -> dict[str, np.ndarray]:
    """Return what every convolutional and dense layer gives after its activation function.

    The activation function is the layer's own, or a layer such as Activation or ReLU that alone takes its output. Of a
    layer that is used more than once, its first use counts.

    Args:
        cnn: name of the architecture.
        weights: of M networks in Keras's weight order, each [M, ...] float32.
        images: [n, side, side] or [n, side, side, 3] float32 in [-1, 1].
        classes: number of outputs.

    Returns:
        Outputs by layer name, the first layer first: [M, n, h, w, c] or [M, n, c] float32. The last are the logits.

    Raises:
        StudyError: the CNN is neither Sequential nor functional, so that its layers' outputs cannot be told apart.
    """
    network = _graphs(cnn, images, classes)
    outputs = []
    for w in _each(weights):
        parts = [[t.numpy() for t in network.outputs(w, x)] for x in _parts(images)]
        outputs.append([np.concatenate(layer) for layer in zip(*parts, strict=True)])
    return {name: np.stack(o) for name, o in zip(network.names, zip(*outputs, strict=True), strict=True)}


def layer_state(cnn: str, weights: Sequence[np.ndarray], images: np.ndarray, classes: int) -> LayerState:
    """Return how many units are dead, and mean and standard deviation of what the layers give.

    The arguments, and what is raised, are those of `layer_activations`. A layer without an activation function, such as
    the logits, has dead units only where all weights of a unit are 0. Networks are looked at one after the other, so
    that memory does not grow with their number.
    """
    network = _graphs(cnn, images, classes)
    states = []
    for w in _each(weights):
        moments = _moments(network.output_moments, w, images)
        mean = [m.mean() for m, _, _ in moments]  # every unit has equally many values
        variance = [v.mean() + m.var() for m, v, _ in moments]
        states.append(([np.count_nonzero(zero) for _, _, zero in moments], mean, np.sqrt(variance)))
    dead, means, sds = (np.array(s) for s in zip(*states, strict=True))
    return LayerState(dead, means, sds)


def channel_statistics(
    cnn: str, weights: Sequence[np.ndarray], images: np.ndarray, classes: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every hidden unit's mean and standard deviation before the activation function.

    The arguments, and what is raised, are those of `layer_activations`.

    Returns:
        Per convolutional and dense layer, the first first and without the last one, which gives the logits: mean and
        standard deviation (n in the denominator) over images and positions, each [M, units] float64. A unit that gives
        the same everywhere has exactly 0. Batch normalisation before the activation function is part of it, and takes
        the statistics of these images in place of its moving ones.
    """
    network = _graphs(cnn, images, classes)
    at_once = len(images) if network.normalises else IMAGES_AT_ONCE
    each = [_moments(network.preactivation_moments, w, images, at_once) for w in _each(weights)]
    return [
        (np.stack([m for m, _, _ in layer]), np.sqrt([v for _, v, _ in layer])) for layer in zip(*each, strict=True)
    ]


def normalised(cnn: str, weights: Sequence[np.ndarray], images: np.ndarray, classes: int) -> list[np.ndarray]:
    """Return a network's weights with the moving statistics of batch normalisation reset to those of the images.

    As REPAIR does (Jordan et al., ICLR 2023): all images pass as one batch, each layer's statistics following from
    those before it; variances are with n - 1, as Keras's are. Random layers do nothing.

    Args:
        cnn: name of the architecture.
        weights: of one network in Keras's weight order.
        images: [n, side, side] or [n, side, side, 3] float32 in [-1, 1].
        classes: number of outputs.

    Returns:
        Weights in Keras's order, float32; the same where nothing is normalised.

    Raises:
        StudyError: as `layer_activations` does.
    """
    network = _graphs(cnn, images, classes)
    if not network.normalises:
        return list(weights)
    return [w.numpy() for w in network.normalised([tf.constant(w, tf.float32) for w in weights], images)]


def batch_gradients(
    cnn: str,
    weights: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    batch_size: int,
    seed: int = 0,
) -> Iterator[list[np.ndarray]]:
    """Yield the gradient of what training minimises over each consecutive batch, at weights that stay as they are.

    That is the mean cross-entropy, and what the network's regularizers add.

    Args:
        cnn: name of the architecture.
        weights: of one network in Keras's weight order, float32.
        images: [N, side, side] or [N, side, side, 3] float32 in [-1, 1].
        labels: [N] int32.
        classes: number of outputs.
        batch_size: images per batch; the last short batch is included.
        seed: of 32 bits, of what random layers draw, as in training whose step t has batch t.

    Yields:
        Gradients (nats per unit of weight) with respect to the weights, in their order and shapes, float32; 0 for
        moving statistics.

    Raises:
        StudyError: as `layer_activations` does.
    """
    values = [tf.constant(w, tf.float32) for w in weights]
    for step, first in enumerate(range(0, len(labels), batch_size)):
        part = slice(first, first + batch_size)
        # Looked up for every batch: between two batches another thread may take the iterator over.
        network = _graphs(cnn, images, classes)
        given = images[part], labels[part], tf.constant(int32_seeds([seed])[0]), tf.constant(step)
        yield [g.numpy() for g in network.gradients(values, *given)]


def first_gradient_norms(
    cnn: str,
    weights: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    *,
    classes: int,
    batch_size: int,
    learning_rate: float,
    steps: int,
    seed: int = 0,
) -> np.ndarray:
    """Return the Euclidean norms of the gradients at the first training steps, layer by layer.

    The networks are trained one after the other as `cnnsim_tf.training.train` trains them: Adam with β = (0.9, 0.999),
    ε = 1e-8, on consecutive batches of `order`.

    Args:
        cnn: name of the architecture.
        weights: of M networks in Keras's weight order, each [M, ...] float32, before training.
        images: [N, side, side] or [N, side, side, 3] float32 in [-1, 1], or uint8 of 0 to 255.
        labels: [N] int32.
        order: of the images in the first epoch, [M, N] or one [N] that all networks share, int32.
        classes: number of outputs.
        batch_size: images per step.
        learning_rate: of Adam.
        steps: how many.
        seed: of 32 bits, of what random layers draw, the same for all networks.

    Returns:
        Norms [M, steps, L] float64 (nats per unit of weight) of the L convolutional and dense layers, the first layer
        first, kernel and bias together. The first step's are taken at the initial weights. NaN for steps after the end
        of the epoch; not finite where training diverges.

    Raises:
        StudyError: as `layer_activations` does.
    """
    network = _graphs(cnn, images, classes)
    count, n = len(weights[0]), steps * batch_size
    orders = np.broadcast_to(order, (count, order.shape[-1]))[:, :n]
    result = np.full((count, steps, len(network.names)), np.nan)
    settings = tf.constant(int32_seeds([seed])[0]), tf.constant(batch_size), tf.constant(learning_rate, tf.float32)
    for m, values in enumerate(_each(weights)):
        norms = network.gradient_norms(values, to_unit(images[orders[m]]), labels[orders[m]], *settings).numpy()
        result[m, : len(norms)] = norms
    return result


def check_layers(cnn: str, side: int, classes: int, channels: int = 1) -> None:
    """Check that the layers of a CNN can be looked at.

    Raises:
        StudyError: the CNN is neither Sequential nor functional.
    """
    graphs_of(cnn, side, classes, channels)


def _graphs(cnn: str, images: np.ndarray, classes: int) -> NetworkGraphs:
    """Return the graphs of a CNN for such images."""
    return graphs_of(cnn, images.shape[1], classes, channels_of(images))


def _moments(
    moments: Callable[..., list[Any]], weights: list[Any], images: np.ndarray, at_once: int = IMAGES_AT_ONCE
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what `_unit_moments` gives of all images, per layer."""
    counts = [len(x) for x in _parts(images, at_once)]
    parts = [[[t.numpy() for t in layer] for layer in moments(weights, x)] for x in _parts(images, at_once)]
    result = []
    for layer in zip(*parts, strict=True):
        means, variances, zeros = (np.stack(values) for values in zip(*layer, strict=True))
        mean = np.average(means, axis=0, weights=counts)
        variance = np.average(variances + (means - mean) ** 2, axis=0, weights=counts)
        result.append((mean, variance, zeros.all(0)))
    return result


def _parts(images: np.ndarray, at_once: int = IMAGES_AT_ONCE) -> list[np.ndarray]:
    return [images[first : first + at_once] for first in range(0, len(images), at_once)]


def _each(weights: Sequence[np.ndarray]) -> Iterator[list[Any]]:
    """Yield the weights of one network after the other, as tensors."""
    for network in zip(*weights, strict=True):
        yield [tf.constant(w, tf.float32) for w in network]
