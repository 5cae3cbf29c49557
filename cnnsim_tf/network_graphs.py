"""The graphs of one CNN, by which the rest of the package looks into networks of its kind."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import keras
import tensorflow as tf

from cnnsim_tf.errors import StudyError
from cnnsim_tf.images import image_shape, with_channels
from cnnsim_tf.models import batch_normalisations, build, minimised_loss
from cnnsim_tf.random_layers import Draws

_ACTIVATIONS = tuple(
    getattr(keras.layers, name) for name in ("Activation", "ELU", "LeakyReLU", "PReLU", "ReLU", "ThresholdedReLU")
)

# The layers that have units, and which of their weights makes each unit's output in the end.
_KERNELS = {
    keras.layers.Conv2D: "kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
    keras.layers.DepthwiseConv2D: "depthwise_kernel",
    keras.layers.Dense: "kernel",
}


def graphs_of(cnn: str, side: int, classes: int, channels: int = 1) -> "NetworkGraphs":
    """Return graphs that no other thread uses; tracing one takes a second, so that they are kept.

    Raises:
        StudyError: the CNN is neither Sequential nor functional.
    """
    return _kept(cnn, side, classes, channels, threading.get_ident())


@lru_cache(maxsize=64)
def _kept(cnn: str, side: int, classes: int, channels: int, thread: int) -> "NetworkGraphs":
    return NetworkGraphs(cnn, side, classes, channels)


class NetworkGraphs:
    """One Keras model, its layers' inputs and outputs, and an Adam optimizer.

    A class since Keras models and optimizers hold their state in variables. Every call sets all of it, so that nothing
    is left of the call before. Each graph serves any number of images and is traced when it is first called.
    """

    def __init__(self, cnn: str, side: int, classes: int, channels: int = 1) -> None:
        self._model = model = build(cnn, side, classes, channels)
        self._layers = layers = weighted_layers(model)
        self._draws = Draws(model)
        nodes = _nodes(model)
        if not nodes:
            raise StudyError(
                f"the CNN {cnn!r} is a {type(model).__name__}, neither Sequential nor functional: what its layers give "
                "cannot be told apart, so make it of Keras's layers with keras.Sequential or keras.Model(input, output)"
            )
        self.names = tuple(layer.name for layer in layers)
        uses = [next(node for node in nodes if node.layer is layer) for layer in layers]
        self._outputs = keras.Model(model.input, [_after_activation(use, nodes) for use in uses], name="outputs")
        self._inputs = keras.Model(model.input, [use.input_tensors for use in uses], name="inputs")
        self._linear = [_without_activation(use) for use in uses]
        self._normalisations = [normalisation_after(use, nodes) for use in uses]
        self.normalises = bool(batch_normalisations(model))
        self._optimizer = keras.optimizers.Adam(1e-3, 0.9, 0.999, epsilon=1e-8, jit_compile=False)
        self._optimizer.build(model.trainable_variables)
        images = tf.TensorSpec((None, *image_shape(side, channels)))
        pixels = [[tf.TensorSpec(w.shape, w.dtype) for w in model.weights], images]
        data = [*pixels, tf.TensorSpec((None,), tf.int32)]
        number = tf.TensorSpec((), tf.int32)
        # Of a network's weights and images: the layers' outputs; per layer mean, variance and being 0 of every unit.
        self.outputs = tf.function(self._give_outputs, pixels)
        self.output_moments = tf.function(self._give_output_moments, pixels)
        self.preactivation_moments = tf.function(self._give_preactivation_moments, pixels)
        # Of weights and images: the weights with the moving statistics of batch normalisation those of the images.
        self.normalised = tf.function(self._give_normalised, pixels)
        # Of weights, images, labels, the random layers' seed and a training step: the gradients; and of the seed, batch
        # size and learning rate: norms [steps, L].
        self.gradients = tf.function(self._give_gradients, [*data, number, number])
        self.gradient_norms = tf.function(self._give_gradient_norms, [*data, number, number, tf.TensorSpec(())])

    def _give_outputs(self, weights: list, images: Any) -> list[Any]:
        self._set(weights)
        outputs = tf.nest.flatten(self._outputs(with_channels(images), training=False))
        return [_channels_last(o, layer) for o, layer in zip(outputs, self._layers, strict=True)]

    def _give_output_moments(self, weights: list, images: Any) -> list[Any]:
        return [_unit_moments(values) for values in self._give_outputs(weights, images)]

    def _give_preactivation_moments(self, weights: list, images: Any) -> list[Any]:
        self._set(weights)
        with _normalising_by(self._model):
            inputs = tf.nest.flatten(self._inputs(with_channels(images), training=False))
            hidden = list(zip(self._linear, self._normalisations, inputs, strict=True))[:-1]
            values = [(layer, layer(x) if then is None else then.layer(layer(x))) for layer, then, x in hidden]
        return [_unit_moments(_channels_last(x, layer)) for layer, x in values]

    def _give_normalised(self, weights: list, images: Any) -> list[Any]:
        self._set(weights)
        with _normalising_by(self._model):
            self._model(with_channels(images), training=False)
        return [tf.identity(w) for w in self._model.weights]

    def _give_gradients(self, weights: list, images: Any, labels: Any, seed: Any, step: Any) -> list[Any]:
        self._set(weights)
        gradients = self._gradients(images, labels, seed, step)
        of = {w.ref(): g for w, g in zip(self._model.trainable_variables, gradients, strict=True)}
        return [of[w.ref()] if w.ref() in of else tf.zeros_like(w) for w in self._model.weights]

    def _give_gradient_norms(
        self, weights: list, images: Any, labels: Any, seed: Any, batch_size: Any, rate: Any
    ) -> Any:
        self._set(weights)
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self._optimizer.learning_rate.assign(rate)
        n, variables = tf.shape(labels)[0], self._model.trainable_variables
        norms = tf.TensorArray(tf.float64, 0, dynamic_size=True, element_shape=(len(self._layers),))
        for begin in tf.range(0, n, batch_size):
            batch = slice(begin, tf.minimum(begin + batch_size, n))
            gradients = self._gradients(images[batch], labels[batch], seed, begin // batch_size)
            norms = norms.write(begin // batch_size, self._norms(gradients))
            self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return norms.stack()

    def _gradients(self, images: Any, labels: Any, seed: Any, step: Any) -> list[Any]:
        self._draws.begin(seed, step)
        with tf.GradientTape() as tape:
            logits = self._model(with_channels(images), training=True)
            loss = minimised_loss(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), self._model)
        return tape.gradient(loss, self._model.trainable_variables, unconnected_gradients="zero")

    def _norms(self, gradients: list[Any]) -> Any:
        each = zip(self._model.trainable_variables, gradients, strict=True)
        squares = {variable.ref(): tf.reduce_sum(tf.cast(g, tf.float64) ** 2) for variable, g in each}
        return tf.sqrt(tf.stack([tf.add_n([squares[w.ref()] for w in layer.weights]) for layer in self._layers]))

    def _set(self, weights: list) -> None:
        self._draws.begin(tf.constant(0), tf.constant(0))
        for variable, value in zip(self._model.weights, weights, strict=True):
            variable.assign(value)


def _nodes(model: keras.Model) -> list[Any]:
    """Return the uses of layers that the model consists of, first to last; none if it is not Sequential or functional.

    A layer's own list of its uses also has those in other models.
    """
    by_depth = getattr(model, "_nodes_by_depth", {})
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the model's convolutional and dense layers in the order in which data passes them.

    These are Conv2D, SeparableConv2D, DepthwiseConv2D and Dense.
    """
    return [layer for layer in model.layers if type(layer) in _KERNELS]


def unit_kernel(layer: keras.layers.Layer) -> tuple[tf.Variable, int]:
    """Return the kernel [..., units] of a layer's units, and how many there are.

    Of a depthwise convolution the units are the last two axes, [..., channels, kernels per channel].
    """
    kernel = getattr(layer, _KERNELS[type(layer)])
    units = kernel.shape[-1] * (kernel.shape[-2] if type(layer) is keras.layers.DepthwiseConv2D else 1)
    return kernel, int(units)


def check_hidden_layers(model: keras.Model) -> None:
    """Check that weighted layers are all that a model has of weights, and that the last of them gives the logits.

    Raises:
        StudyError: other layers have weights, a layer is used twice, or logits come from more than one layer.
    """
    layers, nodes = weighted_layers(model), _nodes(model)
    known, reason = [*layers, *batch_normalisations(model)], ""
    if others := [layer.name for layer in model.layers if layer.weights and layer not in known]:
        reason = f"the layer {others[0]!r} has weights, too"
    elif twice := [each.name for each in layers if sum(node.layer is each for node in nodes) > 1]:
        reason = f"the layer {twice[0]!r} is used more than once"
    else:
        givers, wanted = {id(node.outputs): node for node in nodes}, [model.output]
        while wanted and not reason:  # back from the output, but not past the last layer
            node = givers.get(id(wanted.pop()))
            if node is not None and node.layer is not layers[-1]:
                reason = (
                    f"{node.layer.name!r} gives logits as well as {layers[-1].name!r}" if node.layer in layers else ""
                )
                wanted += node.keras_inputs
    if reason:
        raise StudyError(
            f"the hidden layers of this CNN cannot be told: {reason}; the schemes centred, calibrated and those that "
            "begin with centred_ need a network whose only weights are those of Conv2D, SeparableConv2D, "
            "DepthwiseConv2D, Dense and BatchNormalization layers, each used once, of which one gives the logits"
        )


def _takers(use: Any, nodes: list[Any]) -> list[Any]:
    """Return the uses of layers that take a layer's output."""
    return [node for node in nodes if any(x is use.outputs for x in node.keras_inputs)]


def normalisation_after(use: Any, nodes: list[Any]) -> Any | None:
    """Return the use of the BatchNormalization of its units that stands between a layer and its activation, if any."""
    layer, takers = use.layer, _takers(use, nodes)
    if len(takers) != 1 or type(takers[0].layer) is not keras.layers.BatchNormalization:
        return None
    units = 1 if getattr(layer, "data_format", "") == "channels_first" else len(use.outputs.shape) - 1
    linear = layer.activation is keras.activations.linear
    return takers[0] if linear and list(takers[0].layer.axis) == [units] else None


def normalisations(model: keras.Model) -> list[keras.layers.Layer | None]:
    """Return, of every weighted layer, the batch normalisation between it and its activation, or None."""
    nodes = _nodes(model)
    uses = [next(node for node in nodes if node.layer is layer) for layer in weighted_layers(model)]
    return [found and found.layer for found in (normalisation_after(use, nodes) for use in uses)]


@contextmanager
def _normalising_by(model: keras.Model) -> Iterator[None]:
    """Have batch normalisation take the statistics of the images at hand, all in one batch, and keep them."""
    layers = batch_normalisations(model)
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum, layer._get_training_value = 0.0, lambda training=None: True
    try:
        yield
    finally:
        for layer, momentum in zip(layers, kept, strict=True):
            layer.momentum = momentum
            del layer._get_training_value


def _after_activation(use: Any, nodes: list[Any]) -> Any:
    """Return a layer's symbolic output, after the activation layer if one takes it and nothing else does."""
    use = normalisation_after(use, nodes) or use
    takers = _takers(use, nodes)
    return takers[0].outputs if len(takers) == 1 and isinstance(takers[0].layer, _ACTIVATIONS) else use.outputs


def _without_activation(use: Any) -> keras.layers.Layer:
    """Return a layer with the same weights that ends before the activation function."""
    layer = use.layer
    changes: dict[str, Any] = {"activation": "linear"}
    for name in layer.get_config():
        if name.endswith("_initializer"):  # Keras's random ones draw from global state, as other threads' weights do
            changes[name] = "zeros"
        elif name.endswith("_regularizer"):
            changes[name] = None
    linear = type(layer).from_config(layer.get_config() | changes)
    linear.build(use.input_shapes)
    for name in ("kernel", "depthwise_kernel", "pointwise_kernel", "bias"):
        if hasattr(layer, name):
            setattr(linear, name, getattr(layer, name))
    return linear


def _channels_last(outputs: Any, layer: keras.layers.Layer) -> Any:
    """Return a layer's outputs with its units along the last axis."""
    return tf.transpose(outputs, [0, 2, 3, 1]) if getattr(layer, "data_format", "") == "channels_first" else outputs


def _unit_moments(values: Any) -> tuple[Any, Any, Any]:
    """Return mean [c] and variance [c] float64 of values [..., c], and whether all of a unit's are 0, [c] bool."""
    values = tf.reshape(values, [-1, values.shape[-1]])
    return *tf.nn.moments(tf.cast(values, tf.float64), [0]), tf.reduce_all(values == 0, 0)
