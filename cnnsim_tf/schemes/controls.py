"""The baseline, the published scheme, and controls: each leaves out one thing that a warm start could be due to.

All of them keep the fresh values of what they do not set, and share random numbers: the donor of `one_donor` is that of
`full_donor`, the permutations of `shuffled` are the same for every measure.
"""

import re

import numpy as np

from cnnsim_tf.filters import to_filters, with_filters
from cnnsim_tf.schemes.entries import PUBLISHED_SCHEME, SCHEMES
from cnnsim_tf.schemes.ingredients import Ingredients, drawn_donor, drawn_filters, one_donors_weights
from cnnsim_tf.study import BASELINE


@SCHEMES.register(
    BASELINE,
    needs_measure=False,
    keeps_statistics=True,
    kind="baseline",
    donors="none",
    summary="everything fresh",
)
def random_init(ingredients: Ingredients) -> list[np.ndarray]:
    """Return the fresh weights: the baseline."""
    return [np.array(w) for w in ingredients.fresh]


@SCHEMES.register(
    PUBLISHED_SCHEME,
    needs_measure=True,
    kind="published",
    control="random_donor",
    summary="conv filters: at random one of the two filters that are most alike",
)
def transplant(ingredients: Ingredients) -> list[np.ndarray]:
    """Return fresh weights with all conv kernels made of the chosen donor filters: the published scheme.

    Conv biases and dense layers keep their fresh values.
    """
    return with_filters(ingredients.fresh, ingredients.kernels, drawn_filters(ingredients, ingredients.most))


@SCHEMES.register(
    "least_alike",
    needs_measure=True,
    kind="control",
    summary="conv filters: at random one of the two filters that are least alike",
)
def least_alike(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `transplant` does, of the least alike pairs: does it matter that the filters are alike?"""
    return with_filters(ingredients.fresh, ingredients.kernels, drawn_filters(ingredients, ingredients.least))


@SCHEMES.register(
    "shuffled",
    needs_measure=True,
    kind="control",
    summary="the chosen filters, the entries of each in random order",
)
def shuffled(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `transplant` does, the entries permuted within each filter: does the pattern matter?"""
    layers = drawn_filters(ingredients, ingredients.most)
    mixed = [ingredients.rng.permuted(f.reshape(len(f), -1), axis=1).reshape(f.shape) for f in layers]
    return with_filters(ingredients.fresh, ingredients.kernels, mixed)


@SCHEMES.register(
    "norm_matched",
    needs_measure=True,
    kind="control",
    summary="fresh filters with the norms of the chosen ones",
)
def norm_matched(ingredients: Ingredients) -> list[np.ndarray]:
    """Return the fresh filters, scaled to the norms of the chosen ones: is it only how large they are?

    The random directions are the fresh filters' own, so that this differs from `random_init` in norms alone; it is
    the counterpart of `rescaled`.
    """
    chosen = drawn_filters(ingredients, ingredients.most)
    fresh = to_filters(ingredients.fresh, ingredients.kernels)
    scaled = [with_norms(f, norms(c)) for f, c in zip(fresh, chosen, strict=True)]
    return with_filters(ingredients.fresh, ingredients.kernels, scaled)


@SCHEMES.register(
    "random_donor",
    needs_measure=False,
    kind="control",
    summary="conv filters: each from a donor drawn at random",
)
def random_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return fresh weights with every conv filter from a donor drawn at random: no similarity in it at all."""
    layers = []
    for donors in to_filters(ingredients.donors, ingredients.kernels):
        count = donors.shape[1]
        layers.append(donors[ingredients.rng.integers(len(donors), size=count), np.arange(count)])
    return with_filters(ingredients.fresh, ingredients.kernels, layers)


@SCHEMES.register(
    "one_donor",
    needs_measure=False,
    kind="control",
    donors="one",
    summary="all conv filters of one donor drawn at random",
)
def one_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return fresh weights with all conv kernels of one donor drawn at random: does mixing donors do harm?"""
    return with_donors_filters(ingredients, drawn_donor(ingredients))


@SCHEMES.register(
    "full_donor",
    needs_measure=False,
    keeps_statistics=True,
    kind="control",
    donors="one",
    summary="all weights of the donor that one_donor draws",
)
def full_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return all weights of one donor: how much of a start is in the dense layers?"""
    return one_donors_weights(ingredients)


def donor_of(scheme: str) -> int | None:
    """Return the number, from 1, of the donor that `donor_1`, … names; None for other schemes."""
    number = re.fullmatch(r"donor_([1-9]\d{0,4})", scheme)
    return int(number[1]) if number else None


def donor_scheme(number: int) -> None:
    """Register `donor_NUMBER`: all weights of that donor, from 1. How much does it matter which donor it is?"""
    if (name := f"donor_{number}") not in SCHEMES:
        SCHEMES.register(
            name,
            needs_measure=False,
            keeps_statistics=True,
            kind="each",
            donors="one",
            summary=f"all weights of donor {number}, in every repeat",
        )(lambda ingredients: [np.array(w[number - 1]) for w in ingredients.donors])


def with_donors_filters(ingredients: Ingredients, donor: int) -> list[np.ndarray]:
    """Return fresh weights with all conv kernels those of one donor, counted from 0."""
    filters = to_filters([w[donor] for w in ingredients.donors], ingredients.kernels)
    return with_filters(ingredients.fresh, ingredients.kernels, filters)


def norms(filters: np.ndarray) -> np.ndarray:
    """Return the Euclidean norms of filters [n, height, width], [n] float64."""
    return np.linalg.norm(filters.reshape(len(filters), -1).astype(np.float64), axis=1)


def with_norms(filters: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return filters [n, height, width] scaled to norms [n], float64; one of zeros has no direction and stays."""
    own = norms(filters)
    factors = np.divide(wanted, own, out=np.zeros_like(own), where=own > 0)
    return filters * factors[:, None, None]
