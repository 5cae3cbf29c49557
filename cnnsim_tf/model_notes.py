"""What a user should know of a model that trains, but hardly as it was meant to."""

import keras
import numpy as np

from cnnsim_tf.models import batch_normalisations

UNSETTLED = 0.01  # part of the moving statistics at the start that matters when training ends
FAINT = 0.02  # a factor that suits pixels of 0 to 255 and leaves nearly nothing of images in [-1, 1]


def left_of_start(model: keras.Model, batches: int) -> float:
    """Return which part of their moving statistics at the start batch normalisations still have after training."""
    return max((layer.momentum for layer in batch_normalisations(model)), default=0.0) ** batches


def expects_other_pixels(model: keras.Model) -> str:
    """Return a sentence where a layer is made for pixels of 0 to 255, which networks here are not given, or ''."""
    for layer in model._flatten_layers(include_self=False):
        kind = type(layer)
        if kind is keras.layers.Rescaling and 0 < np.max(np.abs(layer.scale)) < FAINT:
            return (
                f"the layer {layer.name!r} multiplies by {np.max(np.abs(layer.scale)):.2g}, as if images were of 0 to "
                "255: they are of -1 to 1 here, and nearly nothing is left of them, so leave that layer out"
            )
        bounded = kind is keras.layers.RandomBrightness and max(layer._value_range) > 2
        if bounded or kind is keras.layers.RandomContrast:
            return (
                f"the layer {layer.name!r} cuts images off at 0 and 255: they are of -1 to 1 here, and what is dark is "
                f"lost, so {'give it value_range=(-1, 1)' if bounded else 'leave that layer out'}"
            )
    return ""
