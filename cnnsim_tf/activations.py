"""What the layers of trained networks give for images: their outputs, dead units, means and standard deviations."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnnsim_tf.cnn import build
from cnnsim_tf.errors import StudyError

IMAGES_AT_ONCE = 500  # larger parts leave the cache and are slower on CPUs

_ACTIVATIONS = tuple(
    getattr(keras.layers, name) for name in ("Activation", "ELU", "LeakyReLU", "PReLU", "ReLU", "ThresholdedReLU")
)


@dataclass(frozen=True)
class LayerState:
    """What the L Conv2D and Dense layers of M networks give after their activation functions."""

    layers: tuple[str, ...]  # names, the first layer first
    units: np.ndarray  # [L] int64, number of channels or neurons
    dead: np.ndarray  # [M, L] int64, units that give 0 for every image and position: with a ReLU, never positive
    mean: np.ndarray  # [M, L] float64, over all units, images and positions
    sd: np.ndarray  # [M, L] float64, the same, with n in the denominator


def layer_activations(
    cnn: str, weights: Sequence[np.ndarray], images: np.ndarray, classes: int
) -> dict[str, np.ndarray]:
    """Return what every Conv2D and Dense layer gives after its activation function.

    The activation function is the layer's own, or a layer such as Activation or ReLU that alone takes its output. Of a
    layer that is used more than once, its first use counts.

    Args:
        cnn: name of the architecture.
        weights: of M networks in Keras's weight order, each [M, ...] float32.
        images: [n, side, side] float32 in [-1, 1].
        classes: number of outputs.

    Returns:
        Outputs by layer name, the first layer first: [M, n, h, w, c] or [M, n, c] float32. The last are the logits.

    Raises:
        StudyError: the CNN is neither Sequential nor functional, so that its layers' outputs cannot be told apart.
    """
    network = _network(cnn, images.shape[-1], classes)
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
    network = _network(cnn, images.shape[-1], classes)
    states = []
    for w in _each(weights):
        moments = _moments(network.output_moments, w, images)
        mean = [m.mean() for m, _, _ in moments]  # every unit has equally many values
        variance = [v.mean() + m.var() for m, v, _ in moments]
        states.append(([np.count_nonzero(zero) for _, _, zero in moments], mean, np.sqrt(variance)))
    dead, means, sds = (np.array(s) for s in zip(*states, strict=True))
    return LayerState(network.names, np.array(network.units), dead, means, sds)


def channel_statistics(
    cnn: str, weights: Sequence[np.ndarray], images: np.ndarray, classes: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every hidden unit's mean and standard deviation before the activation function.

    The arguments, and what is raised, are those of `layer_activations`.

    Returns:
        Per Conv2D and Dense layer, the first first and without the last one, which gives the logits: mean and standard
        deviation (n in the denominator) over images and positions, each [M, units] float64. A unit that gives the same
        everywhere has exactly 0.
    """
    network = _network(cnn, images.shape[-1], classes)
    each = [_moments(network.preactivation_moments, w, images) for w in _each(weights)]
    return [
        (np.stack([m for m, _, _ in layer]), np.sqrt([v for _, v, _ in layer])) for layer in zip(*each, strict=True)
    ]


def check_layers(cnn: str, side: int, classes: int) -> None:
    """Check that the layers of a CNN can be looked at.

    Raises:
        StudyError: the CNN is neither Sequential nor functional.
    """
    _network(cnn, side, classes)


def weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the model's Conv2D and Dense layers in the order in which data passes them."""
    return [layer for layer in model.layers if type(layer) in (keras.layers.Conv2D, keras.layers.Dense)]


class _Network:
    """One Keras model whose layers can be looked at.

    A class since Keras models hold their weights in variables. Every call sets all of them, so that nothing is left of
    the call before.
    """

    def __init__(self, cnn: str, side: int, classes: int) -> None:
        model = build(cnn, side, classes)
        self._layers = layers = weighted_layers(model)
        nodes = _nodes(model)
        if not nodes:
            raise StudyError(
                f"the CNN {cnn!r} is a {type(model).__name__}, neither Sequential nor functional: what its layers give "
                "cannot be told apart, so make it of Keras's layers with keras.Sequential or keras.Model(input, output)"
            )
        self.names = tuple(layer.name for layer in layers)
        self.units = tuple(int(layer.kernel.shape[-1]) for layer in layers)
        self._variables = model.weights
        uses = [next(node for node in nodes if node.layer is layer) for layer in layers]
        self._outputs = keras.Model(model.input, [_after_activation(use, nodes) for use in uses], name="outputs")
        self._inputs = keras.Model(model.input, [use.input_tensors for use in uses], name="inputs")
        self._linear = [_without_activation(use) for use in uses]
        signature = [[tf.TensorSpec(w.shape, w.dtype) for w in model.weights], tf.TensorSpec((None, side, side))]
        for name in ("outputs", "output_moments", "preactivation_moments"):  # one graph for any number of images
            setattr(self, name, tf.function(getattr(self, f"_give_{name}"), input_signature=signature))

    outputs: Callable[..., list[Any]]  # of a network's weights and images: the layers' outputs
    output_moments: Callable[..., list[Any]]  # the same: per layer mean, variance and being 0 of every unit
    preactivation_moments: Callable[..., list[Any]]

    def _give_outputs(self, weights: list, images: Any) -> list[Any]:
        self._set(weights)
        outputs = tf.nest.flatten(self._outputs(images[..., None], training=False))
        return [_channels_last(o, layer) for o, layer in zip(outputs, self._layers, strict=True)]

    def _give_output_moments(self, weights: list, images: Any) -> list[Any]:
        return [_unit_moments(values) for values in self._give_outputs(weights, images)]

    def _give_preactivation_moments(self, weights: list, images: Any) -> list[Any]:
        self._set(weights)
        inputs = tf.nest.flatten(self._inputs(images[..., None], training=False))
        hidden = list(zip(self._linear, inputs, strict=True))[:-1]
        return [_unit_moments(_channels_last(layer(x), layer)) for layer, x in hidden]

    def _set(self, weights: list) -> None:
        for variable, value in zip(self._variables, weights, strict=True):
            variable.assign(value)


def _network(cnn: str, side: int, classes: int) -> _Network:
    """Return a network that no other thread uses; tracing its graphs takes a second, so that it is kept."""
    return _kept_network(cnn, side, classes, threading.get_ident())


@lru_cache(maxsize=64)
def _kept_network(cnn: str, side: int, classes: int, thread: int) -> _Network:
    return _Network(cnn, side, classes)


def _nodes(model: keras.Model) -> list[Any]:
    """Return the uses of layers that the model consists of, first to last; none if it is not Sequential or functional.

    A layer's own list of its uses also has those in other models.
    """
    by_depth = getattr(model, "_nodes_by_depth", {})
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _after_activation(use: Any, nodes: list[Any]) -> Any:
    """Return a layer's symbolic output, after the activation layer if one takes it and nothing else does."""
    takers = [node for node in nodes if any(x is use.outputs for x in node.keras_inputs)]
    return takers[0].outputs if len(takers) == 1 and isinstance(takers[0].layer, _ACTIVATIONS) else use.outputs


def _without_activation(use: Any) -> keras.layers.Layer:
    """Return a layer with the same weights that ends before the activation function."""
    layer = use.layer
    # Zeros, since Keras's random initialisers draw from global state, on which other threads' fresh weights depend.
    changes = {"activation": "linear", "kernel_initializer": "zeros", "bias_initializer": "zeros"}
    linear = type(layer).from_config(layer.get_config() | changes)
    linear.build(use.input_shapes)
    linear.kernel = layer.kernel
    if layer.use_bias:
        linear.bias = layer.bias
    return linear


def _channels_last(outputs: Any, layer: keras.layers.Layer) -> Any:
    """Return a layer's outputs with its units along the last axis."""
    return tf.transpose(outputs, [0, 2, 3, 1]) if getattr(layer, "data_format", "") == "channels_first" else outputs


def _unit_moments(values: Any) -> tuple[Any, Any, Any]:
    """Return mean [c] and variance [c] float64 of values [..., c], and whether all of a unit's are 0, [c] bool."""
    values = tf.reshape(values, [-1, values.shape[-1]])
    return *tf.nn.moments(tf.cast(values, tf.float64), [0]), tf.reduce_all(values == 0, 0)


def _moments(
    moments: Callable[..., list[Any]], weights: list[Any], images: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what `_unit_moments` gives of all images, per layer."""
    counts = [len(x) for x in _parts(images)]
    parts = [[[t.numpy() for t in layer] for layer in moments(weights, x)] for x in _parts(images)]
    result = []
    for layer in zip(*parts, strict=True):
        means, variances, zeros = (np.stack(values) for values in zip(*layer, strict=True))
        mean = np.average(means, axis=0, weights=counts)
        variance = np.average(variances + (means - mean) ** 2, axis=0, weights=counts)
        result.append((mean, variance, zeros.all(0)))
    return result


def _parts(images: np.ndarray) -> list[np.ndarray]:
    return [images[first : first + IMAGES_AT_ONCE] for first in range(0, len(images), IMAGES_AT_ONCE)]


def _each(weights: Sequence[np.ndarray]) -> Iterator[list[Any]]:
    """Yield the weights of one network after the other, as tensors."""
    for network in zip(*weights, strict=True):
        yield [tf.constant(w, tf.float32) for w in network]
