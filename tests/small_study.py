"""A small study whose repeats are computed once for all tests: 600 images of MNIST, six donors, two repeats."""

import dataclasses
import sys
from functools import cache
from itertools import combinations

import numpy as np

from cnnsim_tf import datasets
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.steps.step import Context, without_passing
from cnnsim_tf.study import Study
from cnnsim_tf.training import Trained

STEPS = [step.name for step in PIPELINE]
# The modules in which the steps' computing stands; a package's `compute` is the function.
COMPUTING = {step.name: sys.modules[step.code.compute.__module__] for step in PIPELINE}
# It trains visibly in few batches.
STUDY = Study(
    repeats=2,
    epochs=1,
    batch_size=32,
    learning_rate=0.01,
    variants=("random_init", "cosine", "pearson", "frobenius", "random_donor", "cosine+least_alike", "full_donor"),
)
VARIANTS, MEASURES, LAYER_MEASURES = STUDY.variants, STUDY.measures, STUDY.layer_measures
TRAIN, TEST, DONORS, SUBSET = 600, 200, 6, 100
# Names and shapes of the reference CNN's weights in Keras's order.
WEIGHTS = {
    "conv1/kernel": (3, 3, 1, 2),
    "conv1/bias": (2,),
    "conv2/kernel": (3, 3, 2, 4),
    "conv2/bias": (4,),
    "dense1/kernel": (196, 16),
    "dense1/bias": (16,),
    "logits/kernel": (16, 10),
    "logits/bias": (10,),
}
KERNELS = ("conv1/kernel", "conv2/kernel")
PAIRS = list(combinations(range(DONORS), 2))
LAYERS = 4


def part_of_mnist(train, test=TEST):
    """Return the first images of MNIST as a dataset of their own."""
    mnist = datasets.load("mnist")
    arrays = {name: getattr(mnist, name)[: train if "train" in name else test] for name in datasets.ARRAY_NAMES}
    return datasets.validate("small", arrays)


@cache
def the_context():
    return Context(STUDY, part_of_mnist(TRAIN))


def with_study(**changes):
    """Return the context of the same study with other parameters."""
    return Context(dataclasses.replace(STUDY, **changes), the_context().dataset)


def computed(context, repeat, passed=None, steps=STEPS):
    """Return the results of one repeat's steps; `passed` collects the image passes that each reports."""
    results = {}
    for name in steps:
        told = []
        results[name] = without_passing(PIPELINE[name].code.compute(context, repeat, dict(results), told.append))
        if passed is not None:
            passed[name] = sum(told)
    return results


@cache
def both_repeats():
    """Return the results of both repeats, computed in order, and the image passes of the second."""
    passes = {}
    return [computed(the_context(), repeat, passes) for repeat in (1, 2)], passes


@cache
def summary_of(name):
    repeats, _ = both_repeats()
    by_step = {step: [r[step] for r in repeats] for step in STEPS}
    return PIPELINE[name].code.summarise(the_context(), by_step[name], by_step)


def all_summaries():
    return {name: summary_of(name) for name in STEPS}


def filters_of(weights):
    """Return the filters of one CNN, its weights in Keras's order, in the published order, by plain loops."""
    kernels = [w for name, w in zip(WEIGHTS, weights, strict=True) if name in KERNELS]
    return [k[:, :, i, o] for k in kernels for o in range(k.shape[3]) for i in range(k.shape[2])]


def network(weights, number):
    """Return the weights of one of several networks, in Keras's order, from theirs by name."""
    return [w[number] for w in weights.values()]


class StoppedError(Exception):
    """Raised in place of training."""


def only_draw_orders(cnn, weights, images, labels, orders, *, epochs, **settings):
    """Return the weights that training starts from as its result."""
    for epoch in range(epochs):
        orders(epoch)
    return Trained(list(weights), *[np.zeros((len(weights[0]), 1))] * 2, np.zeros(1), *[np.zeros((1, 1))] * 3)


def rows_of(table):
    """Return a table as dicts, a row each."""
    return table.to_dict("records")
