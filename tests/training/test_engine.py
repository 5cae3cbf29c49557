import math
from itertools import pairwise

import keras
import numpy as np
import pytest

from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.models import fresh_weights
from cnnsim_tf.training import compile_ahead, curve_points, train, why_not_fleet
from cnnsim_tf.training.fleet_engine import FleetEngine, unsupported
from cnnsim_tf.training.keras_engine import KerasEngine
from cnnsim_tf.training.programs import evaluation_program, training_program

pytestmark = pytest.mark.slow

HUNDREDS = [100, 200, 300, 400, 500, 600, 700, 800, 900]


def test_accuracy_is_taken_after_25_50_and_every_100_batches_and_at_the_end_of_the_epoch():
    assert curve_points(60_000, 64, 1).tolist() == [25, 50, *HUNDREDS, 938]
    assert curve_points(65, 64, 1).tolist() == [2]
    assert curve_points(64 * 25, 64, 1).tolist() == [25]


def test_later_epochs_have_their_quarters():
    assert curve_points(60_000, 64, 2).tolist() == [25, 50, *HUNDREDS, 938, 938 + 235, 938 + 469, 938 + 704, 1876]
    assert curve_points(64 * 400, 64, 2).tolist() == [25, 50, 100, 200, 300, 400, 500, 600, 700, 800]


def test_short_epochs_have_points_25_batches_apart_then_100():
    assert curve_points(640, 64, 3).tolist() == [10, 30]
    assert curve_points(64 * 100, 64, 2).tolist() == [25, 50, 100, 200]
    assert curve_points(64 * 80, 64, 2).tolist() == [25, 50, 80, 160]
    assert curve_points(64 * 50, 64, 3).tolist() == [25, 50, 75, 100, 150]
    assert curve_points(600, 64, 100).tolist() == [10, 35, 60, 85, *range(185, 986, 100), 1000]
    assert len(curve_points(64, 64, 10_000)) < 110


def test_a_longer_first_epoch_has_about_ten_points_and_no_two_close_to_its_end():
    assert curve_points(120_000, 64, 1).tolist() == [25, 50, *range(200, 1801, 200), 1875]
    assert curve_points(1_000_000, 1, 1).tolist() == [25, 50, *range(100_000, 900_001, 100_000), 1_000_000]


@pytest.mark.parametrize("epochs", [1, 2, 5])
@pytest.mark.parametrize("images", [1, 63, 64, 65, 640, 6400, 12_345, 60_000, 123_456])
def test_points_rise_and_end_with_the_training_25_batches_apart_at_least_after_the_first_epoch(images, epochs):
    steps = math.ceil(images / 64)
    points = curve_points(images, 64, epochs).tolist()
    assert points == sorted(set(points))
    assert points[0] >= 1
    assert points[-1] == steps * epochs
    assert steps in points
    later = [p for p in points if p >= steps]
    assert all(b - a >= (100 if b > 100 else 25) for a, b in pairwise(later[:-1]))
    in_first = [p for p in points if p <= steps]
    assert len(in_first) <= 14  # which is what an evaluation at each costs


def many_channels(side: int, classes: int) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPool2D(4),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )


def tanh(side: int, classes: int) -> keras.Model:
    layers = [keras.layers.Conv2D(2, 3, activation="tanh"), keras.layers.Flatten(), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input((side, side, 1)), *layers])


def trained(cnn, weights, images, labels, epochs=1, batch_size=64, **settings):
    """Train one network in the order of its images."""
    order = np.arange(len(labels))[None]
    settings = {"classes": 10, "epochs": epochs, "batch_size": batch_size, "learning_rate": 0.001} | settings
    return train(cnn, [w[None] for w in weights], [images], [labels], lambda epoch: order, **settings)


class BeganError(Exception):
    """An engine was about to train."""


def engine_used(monkeypatch, cnn, choice):
    """Return the class of the engine that begins to train."""

    def begin(self, *_):
        raise BeganError(type(self))

    for kind in (FleetEngine, KerasEngine):
        monkeypatch.setattr(kind, "run", begin)
    with pytest.raises(BeganError) as caught:
        trained(cnn, fresh_weights(cnn, 28, 10, 1), *digits(8), engine=choice)
    return caught.value.args[0]


def digits(count):
    mnist = load("mnist")
    return to_unit(mnist.x_train[:count]), mnist.y_train[:count]


def test_the_reference_cnn_trains_in_the_fleet_engine():
    assert why_not_fleet("reference", 28, 10) is None


def test_a_cnn_with_many_channels_is_said_to_be_faster_with_keras():
    reason = why_not_fleet(f"{__name__}:many_channels", 28, 10)
    assert "1,152 weights" in reason and "\n" not in reason
    assert unsupported(f"{__name__}:many_channels", 28, 10) is None


@pytest.mark.parametrize(
    ("cnn", "choice", "engine"),
    [
        ("reference", "auto", FleetEngine),
        ("reference", "keras", KerasEngine),
        (f"{__name__}:many_channels", "auto", KerasEngine),
        (f"{__name__}:many_channels", "fleet", FleetEngine),
        (f"{__name__}:tanh", "auto", KerasEngine),
    ],
)
def test_the_engine_is_the_one_asked_for_or_the_faster_one(monkeypatch, cnn, choice, engine):
    assert engine_used(monkeypatch, cnn, choice) is engine


def test_the_fleet_engine_for_a_cnn_that_it_cannot_train_is_refused(monkeypatch):
    with pytest.raises(ParameterError, match=r"tanh.*use engine=auto or keras"):
        engine_used(monkeypatch, f"{__name__}:tanh", "fleet")


@pytest.mark.parametrize("engine", ["fleet", "keras"])
def test_results_depend_neither_on_threads_nor_on_what_trains_besides(engine):
    mnist = load("mnist")
    images, labels = to_unit(mnist.x_train[:150]), mnist.y_train[:150]
    weights = [np.stack(w) for w in zip(*(fresh_weights("reference", 28, 10, m) for m in range(3)), strict=True)]
    settings = {"classes": 10, "epochs": 2, "learning_rate": 0.01, "engine": engine, "points": (2,)}

    def of(models, **others):
        orders = [np.random.default_rng(m).permutation(150) for m in models]
        found = train(
            "reference",
            [w[models] for w in weights],
            [images],
            [labels],
            lambda epoch: np.stack(orders),
            batch_size=64,
            test=(images, labels),
            **settings | others,
        )
        return [x.tobytes() for m in range(len(models)) for x in (*(w[m] for w in found.weights), found.test_loss[m])]

    three = of([0, 1, 2], threads=1)
    assert three == of([0, 1, 2], threads=3)
    of([1, 0], threads=2, learning_rate=0.1)  # others in between leave nothing behind
    assert three == of([0], threads=2) + of([1, 2], threads=2)


def test_diverged_training_names_the_learning_rate():
    weights = [1e30 * w for w in fresh_weights("reference", 28, 10, 1)]
    with pytest.raises(StudyError, match="smaller learning_rate"):
        trained("reference", weights, *digits(64))


@pytest.mark.parametrize("engine", ["fleet", "keras"])
def test_images_of_0_to_255_train_as_those_in_unit_bit_for_bit(engine):
    mnist, weights = load("mnist"), [w[None] for w in fresh_weights("reference", 28, 10, 0)]
    settings = {"classes": 10, "epochs": 1, "batch_size": 32, "learning_rate": 0.01, "engine": engine}
    images, order = mnist.x_train[:100], np.arange(100)[None]
    found, expected = (
        train("reference", weights, [x], [mnist.y_train[:100]], lambda epoch: order, **settings)
        for x in (images, to_unit(images))
    )
    assert [w.tobytes() for w in found.weights] == [w.tobytes() for w in expected.weights]
    assert found.epoch_loss.tobytes() == expected.epoch_loss.tobytes()


def test_a_batch_larger_than_the_data_is_one_batch_of_all_data():
    weights = fresh_weights("reference", 28, 10, 1)
    one, other = (trained("reference", weights, *digits(64), epochs=2, batch_size=size) for size in (64, 1_000_000))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one.weights, other.weights, strict=True))


def test_what_was_compiled_ahead_is_what_trains_and_evaluates():
    batch = 41  # which no other test has
    compile_ahead("reference", 28, 10, 500, batch)
    net = FleetEngine("reference", 28, 10, 1, batch, 1e-3).network
    programs = [training_program(net, (28, 28), batch, 1), evaluation_program(net, (28, 28), 1)]
    assert [program.experimental_get_tracing_count() for program in programs] == [1, 1]
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(-1, 1, (500, 28, 28)).astype(np.float32), rng.integers(0, 10, 500, np.int32)
    weights = [np.stack([w] * 2) for w in fresh_weights("reference", 28, 10, 1)]
    order = np.stack([np.arange(500, dtype=np.int32)] * 2)
    settings = {"classes": 10, "epochs": 1, "batch_size": batch, "learning_rate": 1e-3}
    train("reference", weights, [images], [labels], lambda e: order, **settings, points=[5], test=(images, labels))
    assert [program.experimental_get_tracing_count() for program in programs] == [1, 1]
    assert training_program(net, (28, 28), batch, 1) is programs[0]


def test_nothing_is_compiled_ahead_for_keras_and_for_a_gpu(monkeypatch):
    compiled = []
    monkeypatch.setattr(FleetEngine, "compile", lambda self: compiled.append(self))
    compile_ahead("reference", 28, 10, 500, 64, "keras")
    compile_ahead(f"{__name__}:many_channels", 28, 10, 500, 64)
    assert not compiled
    compile_ahead("reference", 28, 10, 500, 64)
    assert len(compiled) == 1
    monkeypatch.setattr("cnnsim_tf.training.fleet_engine.tf.config.get_visible_devices", lambda kind: ["a card"])
    compile_ahead("reference", 28, 10, 500, 64)
    assert len(compiled) == 1
