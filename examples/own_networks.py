"""Networks that were there before as donors: three, trained by plain Keras on digits of three tints, for a fourth.

python -m examples.own_networks            # trains and registers them, then runs the warm start; --repeats 3 and other
                                           # options are passed on to it
"""

import subprocess
import sys

import keras
import mlflow
import numpy as np

from cnnsim_tf.datasets import load
from examples.colour import cnn, tinted

NAME = "tinted_digits"
TINTS = {"red": (1.0, 0.2, 0.2), "green": (0.2, 1.0, 0.2), "blue": (0.3, 0.3, 1.0), "violet": (0.8, 0.2, 1.0)}
SEEN, NEW, TEST = 6_000, 600, 1_000  # images of each donor's tint, and of the new one


def digits(tint: str, first: int, count: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return digits of a tint over textured backgrounds, uint8 [N, 32, 32, 3], and their labels: training, test."""
    mnist, rng = load("mnist"), np.random.default_rng(first)
    train = slice(first, first + count)
    return (
        (tinted(mnist.x_train[train], rng, TINTS[tint]), mnist.y_train[train]),
        (tinted(mnist.x_test[:TEST], rng, TINTS[tint]), mnist.y_test[:TEST]),
    )


def violet() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the new data: digits in violet, fewer than donors have seen, and none that they have seen."""
    return digits("violet", 3 * SEEN, NEW)


def trained(tint: str, first: int) -> keras.Model:
    """Return a CNN as people have them: from pixels of 0 to 255 to probabilities, trained by Keras's fit."""
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 127.5, offset=-1)])
    for layer in cnn(32, 10).layers:
        model.add(layer)
    model.add(keras.layers.Softmax())
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    (images, labels), test = digits(tint, first, SEEN)
    model.fit(images.astype(np.float32), labels, batch_size=64, epochs=2, validation_data=test, verbose=2)
    return model


def main() -> None:
    """Train and register the donors, and run the warm start on digits in violet."""
    mlflow.set_experiment(NAME)
    for number, tint in enumerate(list(TINTS)[:3]):
        keras.utils.set_random_seed(number)
        with mlflow.start_run(run_name=tint):
            needed = [f"keras=={keras.__version__}"]  # else MLflow takes seconds to find out
            model = trained(tint, number * SEEN)
            mlflow.tensorflow.log_model(model, name=tint, registered_model_name=NAME, pip_requirements=needed)
    study = {
        "donors": f"models:/{NAME}",
        "dataset": "examples.own_networks:violet",
        "target-epochs": "10",
        "variants": "random_init,each_donor,shrink_perturb,aligned_mean,pearson,pearson+centred_medoid_donor",
        "registered-model": "violet_digits",
    }
    options = [f"--{name}={value}" for name, value in study.items()]
    sys.exit(subprocess.run([sys.executable, "-m", "entrypoints.warmstart", *options, *sys.argv[1:]]).returncode)


if __name__ == "__main__":
    main()
