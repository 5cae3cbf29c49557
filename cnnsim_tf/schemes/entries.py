"""The registry of schemes, what it says about each, and how weights are made by one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.registry import Registry, described, numbers
from cnnsim_tf.schemes.ingredients import Ingredients

PUBLISHED_SCHEME = "transplant"

Kind = Literal["baseline", "published", "control", "candidate", "each"]
Taken = Literal["none", "one", "all"]
# Returns initial weights in Keras's order.
SchemeFunction = Callable[[Ingredients], list[np.ndarray]]


@dataclass(frozen=True)
class Scheme:
    """A scheme and what it is for; the defaults hold for a user's plain function."""

    function: SchemeFunction
    needs_measure: bool = True  # then a variant is measure+scheme, else the scheme's name alone
    kind: Kind = "candidate"
    donors: Taken = "all"  # from how many donors' training it profits
    target_epochs: int = 0  # passes over the target data that it takes gradients in
    control: str = ""  # the scheme that does the same with donors drawn at random instead of by the measure
    needs_layers: bool = False  # then it sets units of hidden layers, each by what it gives on target images
    keeps_statistics: bool = False  # then those of batch normalisation are as it returns them, else of target images
    needs_chain: bool = False  # then it follows units from layer to layer, which only a chain of layers allows
    summary: str = "a scheme of your own"  # a plain phrase for tables and reports

    def __call__(self, ingredients: Ingredients) -> list[np.ndarray]:
        """Return initial weights in Keras's order."""
        return self.function(ingredients)


SCHEMES: Registry[Scheme] = Registry("scheme", chance="ingredients.rng", entry=Scheme)
get_scheme = SCHEMES.get


def make_weights(scheme: str, ingredients: Ingredients) -> list[np.ndarray]:
    """Return a scheme's initial weights in Keras's order, float32.

    Raises:
        StudyError: the scheme raised something, or returned something else than a list of as many arrays as the CNN has
            weights, of their shapes and of finite real numbers.
    """
    entry, fresh = get_scheme(scheme), ingredients.fresh

    def made(given: Ingredients) -> Any:
        weights: Any = entry(given)
        return list(islice(weights, len(fresh) + 1)) if isinstance(weights, Iterator) else weights

    returned = SCHEMES.call(scheme, made, ingredients)
    if not isinstance(returned, (list, tuple)) or len(returned) != len(fresh):
        what = f"{len(returned)} arrays" if isinstance(returned, (list, tuple)) else described(returned)
        raise _refused(scheme, what, fresh)
    arrays = []
    for number, (weight, like) in enumerate(zip(returned, fresh, strict=True), 1):
        array = numbers(weight, "fiu")
        if array is None or array.shape != like.shape:
            raise _refused(scheme, f"{described(weight)} as weight {number}", fresh)
        if not np.isfinite(array).all():
            raise _refused(scheme, f"values that are not finite in weight {number}", fresh)
        arrays.append(array)
    return arrays if entry.keeps_statistics else ingredients.normalised(arrays)


def _refused(scheme: str, what: str, fresh: Sequence[np.ndarray]) -> StudyError:
    shapes = [w.shape for w in fresh]
    return StudyError(f"the scheme {scheme!r} returned {what}: it must return finite weights of shapes {shapes}")
