"""The registry of schemes, what it says about each, and how weights are made by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.registry import Registry
from cnnsim_tf.schemes.ingredients import Ingredients

PUBLISHED_SCHEME = "transplant"

Kind = Literal["baseline", "published", "control", "candidate"]
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
        StudyError: the scheme returned other shapes than the CNN's or values that are not finite.
    """
    with np.errstate(over="ignore"):  # what is too large for float32 is refused below
        made = [np.asarray(w, np.float32) for w in SCHEMES.call(scheme, get_scheme(scheme), ingredients)]
    shapes = [w.shape for w in ingredients.fresh]
    if [w.shape for w in made] != shapes or not all(np.isfinite(w).all() for w in made):
        raise StudyError(
            f"the scheme {scheme!r} returned arrays of shapes {[w.shape for w in made]} or values that are not finite: "
            f"it must return finite weights of shapes {shapes}"
        )
    return made
