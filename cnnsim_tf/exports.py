"""What is exported of a network: a Keras model from pixel values that loads without this package or a user's code."""

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.models import build, draw_weights


def pixel_model(model: keras.Model) -> keras.Model:
    """Return `model` with a Rescaling layer in front: from pixel values 0 to 255 instead of [-1, 1].

    It shares its weights with `model`, and its predictions are bit for bit those of `model` on scaled images. A user's
    own initialisers and regularizers are left behind, in `model` too: a loaded model needs none, and could not find
    them. Keras's own stay, so that the model can be a donor, whose fresh weights they draw.
    """
    for layer in model._flatten_layers(include_self=False):
        for attribute, value in list(vars(layer).items()):
            if type(value).__module__.partition(".")[0] == "keras" or value is None:
                continue
            if attribute.endswith("_initializer"):
                setattr(layer, attribute, keras.initializers.Zeros())
            elif attribute.endswith("_regularizer"):
                setattr(layer, attribute, None)
    taken = {model.name, *(layer.name for layer in model.layers)}

    def free(name: str) -> str:
        return name if name not in taken else free(f"{name}_")

    pixels = keras.Input(model.input_shape[1:], name=free("image"))
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1, name=free("scale"))(pixels)
    for layer in model.layers if isinstance(model, keras.Sequential) else [model]:
        scaled = layer(scaled)
    return keras.Model(pixels, scaled, name=free("pixels_to_logits"))


@contextlib.contextmanager
def plain_keras(modules: Iterable[str] = ()) -> Iterator[None]:
    """Save or load models as a process does that knows nothing of this one's own classes, functions and modules."""
    custom = keras.utils.get_custom_objects()
    kept, hidden = dict(custom), {name: sys.modules.pop(name) for name in modules if name in sys.modules}
    custom.clear()
    try:
        yield
    finally:
        custom.update(kept)
        sys.modules.update(hidden)


def check_export(name: str, side: int, classes: int, channels: int = 1) -> None:
    """Check that the CNN, saved, gives the same logits where it is loaded, without the user's code.

    Raises:
        StudyError: it does not.
    """
    model = build(name, side, classes, channels)
    draw_weights(model, np.random.default_rng(0), 0.1)
    exported = pixel_model(model)
    pixels = np.random.default_rng(1).uniform(0, 255, (4, *model.input_shape[1:])).astype(np.float32)
    reason = "it gives other logits when it is loaded"
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.h5"
        try:
            with plain_keras():
                exported.save(file, save_format="h5", include_optimizer=False)
            with plain_keras(_own_modules(exported)):
                loaded = keras.models.load_model(file, compile=False)(pixels, training=False).numpy()
            if np.allclose(loaded, exported(pixels, training=False).numpy(), rtol=1e-4, atol=1e-4):
                return
        except Exception as error:  # whatever Keras makes of what it does not know
            reason = " ".join(str(error).split("\n")[-1].split())[:300] or type(error).__name__
    raise StudyError(
        f"the CNN {name!r} cannot be registered as a model that loads without your code ({reason}): make it of Keras's "
        "own layers and activations, or of TensorFlow's operations in a functional model"
    )


def _own_modules(model: keras.Model) -> set[str]:
    """Return the modules of a user's code that a model's description names."""
    return {m for m in re.findall(r'"module": "([\w.]+)"', model.to_json()) if m.partition(".")[0] != "keras"}
