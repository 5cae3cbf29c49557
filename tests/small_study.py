"""A small study whose repeats are computed once for all tests: 600 images of MNIST, six donors, two repeats."""

import dataclasses
from functools import cache
from itertools import combinations

import numpy as np

from cnnsim_tf import datasets
from cnnsim_tf.steps import noising, subset_training
from cnnsim_tf.steps.similarity import compute as similarity
from cnnsim_tf.steps.step import Context, without_passing
from cnnsim_tf.steps.warmstart import summary as warmstart
from cnnsim_tf.study import Study
from cnnsim_tf.training import Trained

MODULES = {m.STEP.name: m for m in (noising, subset_training, similarity, warmstart)}
STEPS = list(MODULES)
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
WEIGHTS = [(3, 3, 1, 2), (2,), (3, 3, 2, 4), (4,), (196, 16), (16,), (16, 10), (10,)]
KERNELS = (0, 2)  # positions of the conv kernels among them
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
        results[name] = without_passing(MODULES[name].compute(context, repeat, dict(results), told.append))
        if passed is not None:
            passed[name] = sum(told)
    return results


@cache
def both_repeats():
    """Return the results of both repeats, computed in order, and the image passes of the second."""
    passes = {}
    return [computed(the_context(), repeat, passes) for repeat in (1, 2)], passes


@cache
def all_summaries():
    repeats, _ = both_repeats()
    by_step = {name: [r[name] for r in repeats] for name in STEPS}
    return {name: MODULES[name].summarise(the_context(), by_step[name], by_step) for name in STEPS}


def filters_of(weights):
    """Return the filters of one CNN in the published order, by plain loops."""
    kernels = [weights[position] for position in KERNELS]
    return [k[:, :, i, o] for k in kernels for o in range(k.shape[3]) for i in range(k.shape[2])]


def network(weights, number):
    """Return the weights of one of several networks."""
    return [w[number] for w in weights]


class StoppedError(Exception):
    """Raised in place of training."""


def only_draw_orders(cnn, weights, images, labels, orders, *, epochs, **settings):
    """Return the weights that training starts from as its result."""
    for epoch in range(epochs):
        orders(epoch)
    return Trained(list(weights), *[np.zeros((len(weights[0]), 1))] * 2, np.zeros(1), *[np.zeros((1, 1))] * 3)


def rows_of(table):
    """Return a table as dicts, a row each; its columns must be equally long."""
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
