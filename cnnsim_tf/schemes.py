"""Schemes: how initial weights are made out of donors; and variants, which name a measure and a scheme."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.filters import ConvKernel, to_filters, with_filters
from cnnsim_tf.measures import MEASURES, get_measure
from cnnsim_tf.registry import Registry, unknown_name

BASELINE = "random_init"
PUBLISHED_SCHEME = "transplant"


@dataclass(frozen=True)
class Ingredients:
    """What a scheme may use, all of one repeat."""

    fresh: Sequence[np.ndarray]  # fresh weights in Keras's order; the same for every variant
    donors: Sequence[np.ndarray]  # trained weights of the donors in Keras's order, each [D, ...]
    kernels: Sequence[ConvKernel]
    chosen: np.ndarray | None  # [F] int, the donor chosen for every filter position; None without a measure
    rng: np.random.Generator  # for a scheme that needs chance of its own; the same state for every variant


# Returns initial weights in Keras's order.
Scheme = Callable[[Ingredients], list[np.ndarray]]
SCHEMES: Registry[Scheme] = Registry("scheme")


@SCHEMES.register(BASELINE)
def random_init(ingredients: Ingredients) -> list[np.ndarray]:
    """Return the fresh weights: the baseline."""
    return [np.array(w) for w in ingredients.fresh]


@SCHEMES.register(PUBLISHED_SCHEME)
def transplant(ingredients: Ingredients) -> list[np.ndarray]:
    """Return fresh weights with all conv kernels made of the chosen donor filters: the published scheme.

    Conv biases and dense layers keep their fresh values.
    """
    if ingredients.chosen is None:
        raise ParameterError("the scheme transplant needs a measure: write the variant as measure+transplant")
    donors = to_filters(ingredients.donors, ingredients.kernels)
    layers, first = [], 0
    for layer in donors:
        count = layer.shape[1]
        layers.append(layer[ingredients.chosen[first : first + count], np.arange(count)])
        first += count
    return with_filters(ingredients.fresh, ingredients.kernels, layers)


def make_weights(scheme: str, ingredients: Ingredients) -> list[np.ndarray]:
    """Return a scheme's initial weights in Keras's order, float32.

    Raises:
        StudyError: a user's scheme returned other shapes than the CNN's or values that are not finite.
    """
    made = [np.asarray(w, np.float32) for w in SCHEMES.call(scheme, SCHEMES.get(scheme), ingredients)]
    shapes = [w.shape for w in ingredients.fresh]
    if [w.shape for w in made] != shapes or not all(np.isfinite(w).all() for w in made):
        raise StudyError(
            f"the scheme {scheme!r} returned arrays of shapes {[w.shape for w in made]} or values that are not finite: "
            f"it must return finite weights of shapes {shapes}"
        )
    return made


@dataclass(frozen=True)
class Variant:
    """A named combination of a measure and a scheme; a baseline has no measure."""

    name: str
    measure: str | None
    scheme: str


def parse_variant(name: str, measures: Sequence[str]) -> Variant:
    """Return what a variant's name stands for: `random_init`, a measure, or `measure+scheme`.

    Raises:
        ParameterError: its measure or scheme is unknown, or its measure is not among the study's measures.
    """
    if name in SCHEMES:
        if name == PUBLISHED_SCHEME:
            raise ParameterError(f"the variant {name!r} needs a measure: write {measures[0]}+{name}, or {measures[0]}")
        return Variant(name, None, name)
    measure_name, plus, scheme = name.partition("+")
    if not plus:
        scheme = PUBLISHED_SCHEME
    try:
        get_measure(measure_name)
    except ParameterError as error:
        if plus or ":" in name:
            raise
        raise unknown_name("variant", name, [BASELINE, *MEASURES], "measure+scheme") from error
    SCHEMES.get(scheme)
    if scheme == BASELINE:
        raise ParameterError(f"the variant {name!r} has a measure, of which {BASELINE} makes no use: write {BASELINE}")
    if measure_name not in measures:
        raise ParameterError(
            f"the variant {name!r} needs the measure {measure_name!r}, but measures is {','.join(measures)}: "
            "add it there or leave the variant out"
        )
    return Variant(name, measure_name, scheme)
