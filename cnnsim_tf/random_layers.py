"""Layers that draw random numbers in training, such as Dropout: seeded so that equal seeds give equal bits."""

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import RandomGenerator

MOST_DRAWS = 1000  # in one training step of a network


class Draws(RandomGenerator):
    """Where all random layers of one model take their random numbers from: stateless, by seed and training step.

    Draw i of training step t (both from 0, all epochs counted on) has TensorFlow's stateless seed [seed, 1000·t + i],
    where draws are counted in the order in which data pass the layers. It takes the place of the generators that Keras
    gives to layers, whose numbers depend on all that was drawn before.
    """

    def __init__(self, model: keras.Model) -> None:
        """Take over all random layers of a model, also those of models within it."""
        super().__init__(seed=0, rng_type="stateless")
        for layer in model._flatten_layers(include_self=False):
            if hasattr(layer, "_random_generator"):
                layer._random_generator = self

    def begin(self, seed: Any, step: Any) -> None:
        """Let the draws that follow be those of a training step: int32 scalars, perhaps of a graph that is traced.

        To be called in every graph, also where nothing is trained: RandomCrop's draws are there, too, if unused.
        """
        self._now, self._first, self._drawn = seed, step * MOST_DRAWS, 0

    def make_seed_for_stateless_op(self) -> Any:
        """Return the seed [2] int32 of the next draw; Keras's name, by which all of its draws are made."""
        number = self._first + self._drawn
        self._drawn += 1
        return tf.stack([self._now, number])


def int32_seeds(seeds: Sequence[int]) -> np.ndarray:
    """Return seeds of 32 bits as TensorFlow takes them, int32 of the same bits."""
    return np.array(seeds, np.uint32).view(np.int32)


def unseeded(model: keras.Model) -> list[str]:
    """Return the names of those operations in the model's training that draw from TensorFlow's global generators.

    A user's own layers may do so, and no seed of the study reaches them. The model's random layers are taken over.
    """
    draws = Draws(model)

    def trained(images: Any) -> Any:
        draws.begin(tf.constant(0), tf.constant(0))
        return model(images, training=True)

    graph = tf.function(trained).get_concrete_function(tf.TensorSpec((None, *model.input_shape[1:]))).graph
    inner = [f.graph for f in getattr(graph, "_functions", {}).values() if hasattr(f, "graph")]
    return [op.name for g in (graph, *inner) for op in g.get_operations() if _draws(op)]


def _draws(operation: Any) -> bool:
    kind = operation.op_def
    return bool(kind.is_stateful and re.search("Random|Normal|Multinomial|Rng|^Stateful(?!Partitioned)", kind.name))
