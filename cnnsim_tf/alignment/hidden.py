"""Which units of a network may change places, and which may be rescaled, without changing what it computes."""

from itertools import pairwise

import keras
import tensorflow as tf

from cnnsim_tf.alignment.network import Hidden
from cnnsim_tf.errors import StudyError
from cnnsim_tf.models import chain

_KERNELS = (keras.layers.Conv2D, keras.layers.Dense)
_NORMALISED = keras.layers.BatchNormalization

# Linear and channel by channel: a permutation of the channels passes them, and so does a scale per channel, as it does
# the maximum of pooling if it is positive.
_CHANNEL_BY_CHANNEL = (
    keras.layers.MaxPool2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPool2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.UpSampling2D,
)
# They do nothing but in training, where every channel is treated alike.
_RANDOM = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
)
_HOMOGENEOUS = (keras.activations.linear, keras.activations.relu, tf.nn.relu)


def hidden_layers(model: keras.Model) -> list[Hidden]:
    """Return the hidden layers of a built model, first layer first: all layers with a kernel but the last one.

    Raises:
        StudyError: the model is not a plain chain of convolutions, dense layers, pooling, padding, Flatten and
            activations of Keras's, so that what a permutation touches is not known.
    """
    layers = chain(model)
    if isinstance(layers, str):
        raise _refusal(layers)
    positions = {id(w): i for i, w in enumerate(model.weights)}
    with_kernel = [at for at, layer in enumerate(layers) if type(layer) in _KERNELS]
    found = []
    for at, following in pairwise(with_kernel):
        scalable = True
        for layer in layers[at : following + 1]:
            if reason := _obstacle(layer):
                raise _refusal(f"layer {layer.name!r} {reason}")
        for layer in layers[at:following]:
            scalable = scalable and _homogeneous(layer)
        kernel, bias = layers[at].kernel, layers[at].bias
        found.append(
            Hidden(
                layer=layers[at].name,
                kernel=positions[id(kernel)],
                bias=None if bias is None else positions[id(bias)],
                next_kernel=positions[id(layers[following].kernel)],
                units=kernel.shape[-1],
                scalable=scalable,
                vectors=tuple(
                    positions[id(w)] for n in layers[at:following] if type(n) is _NORMALISED for w in n.weights
                ),
            )
        )
    return found


def _refusal(reason: str) -> StudyError:
    return StudyError(
        f"the units of this CNN cannot be followed from layer to layer: {reason}; align=network and some schemes "
        "(aligned_mean, with_biases) need a plain chain of convolutions, pooling, activations and dense layers"
    )


def _obstacle(layer: keras.layers.Layer) -> str | None:
    """Return why a permutation of channels does not pass a layer, or None if it does."""
    kind, config = type(layer), layer.get_config()
    if config.get("data_format") == "channels_first":
        return "has channels first"
    if kind is _NORMALISED and list(layer.axis) != [len(layer.input_shape) - 1]:
        return "normalises another axis than that of the channels"
    if config.get("groups", 1) > 1:
        return "convolves in groups"
    if "activation" in config and not _is_keras_own(layer.activation):
        return "has an activation that is neither one of Keras's nor of TensorFlow's"
    if kind in (*_KERNELS, *_CHANNEL_BY_CHANNEL) or kind in (
        keras.layers.Flatten,
        keras.layers.Activation,
        keras.layers.ReLU,
        keras.layers.LeakyReLU,
        *_RANDOM,
        _NORMALISED,
    ):
        return None
    return f"is a {kind.__name__}"


def _is_keras_own(activation: object) -> bool:
    name = getattr(activation, "__name__", "")
    return any(activation is getattr(module, name, None) for module in (keras.activations, tf.nn))


def _homogeneous(layer: keras.layers.Layer) -> bool:
    """Return whether scaling a layer's input channels, or its own units, by s > 0 scales its output by s."""
    if hasattr(layer, "activation"):
        return layer.activation in _HOMOGENEOUS
    if type(layer) is _NORMALISED:  # it takes the scale of its input away
        return False
    if type(layer) is keras.layers.ReLU:
        return layer.max_value is None and not layer.threshold
    return True
