import numpy as np
import pytest

from cnnsim_tf.cnn import fresh_weights
from cnnsim_tf.datasets import load, to_unit
from cnnsim_tf.errors import StudyError
from cnnsim_tf.training import curve_points, train, why_not_fleet


def test_accuracy_is_taken_after_50_100_200_400_batches_and_at_the_end_of_every_epoch():
    assert curve_points(60_000, 64, 1).tolist() == [50, 100, 200, 400, 938]
    assert curve_points(60_000, 64, 2).tolist() == [50, 100, 200, 400, 938, 1876]
    assert curve_points(640, 64, 6).tolist() == [10, 20, 30, 40, 50, 60]
    assert curve_points(65, 64, 1).tolist() == [2]


def test_the_reference_cnn_trains_in_the_fleet_engine():
    assert why_not_fleet("reference", 28, 10) is None


def test_diverged_training_names_the_learning_rate():
    mnist = load("mnist")
    images, labels = to_unit(mnist.x_train[:64]), mnist.y_train[:64]
    weights = [1e30 * w[None] for w in fresh_weights("reference", 28, 10, 1)]
    with pytest.raises(StudyError, match="smaller learning_rate"):
        train(
            "reference",
            weights,
            [images],
            [labels],
            lambda epoch: np.arange(64)[None],
            classes=10,
            epochs=1,
            batch_size=64,
            learning_rate=0.001,
        )


def test_a_batch_larger_than_the_data_is_one_batch_of_all_data():
    mnist = load("mnist")
    images, labels = to_unit(mnist.x_train[:64]), mnist.y_train[:64]
    weights = [w[None] for w in fresh_weights("reference", 28, 10, 1)]
    ends = [
        train(
            "reference",
            weights,
            [images],
            [labels],
            lambda epoch: np.arange(64)[None],
            classes=10,
            epochs=2,
            batch_size=batch_size,
            learning_rate=0.001,
        )
        for batch_size in (64, 1_000_000)
    ]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ends[0].weights, ends[1].weights, strict=True))
