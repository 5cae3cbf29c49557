"""What a scheme may use to make initial weights, and the donor filters that a measure chose."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnsim_tf.alignment import Hidden
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.filters import ConvKernel, to_filters


@dataclass(frozen=True)
class Choice:
    """The two filters of the pair chosen for every filter position, and which of them was drawn."""

    donors: np.ndarray  # [F, 2] int, the donors of the pair, from 0
    positions: np.ndarray  # [F, 2] int, which filter of that donor, among all F: in the same layer; f if not matched
    side: np.ndarray  # [F] int, 0 or 1: the one drawn

    @property
    def drawn_donors(self) -> np.ndarray:
        """The donor of the filter drawn for every position, [F] int."""
        return self.donors[np.arange(len(self.side)), self.side]


@dataclass(frozen=True)
class Layer:
    """A hidden convolutional or dense layer: where its weights are."""

    kernel: int  # position of its kernel in Keras's weight order; the units are what its last axis or axes run through
    # Position of what is added to its units, [units]: its bias, or beta of batch normalisation before its activation.
    bias: int | None
    units: int
    normalised: bool = False  # whether there is such a batch normalisation
    gamma: int | None = None  # position of its gamma, [units]

    @property
    def scale(self) -> int | None:
        """Position of the weights that scale what enters its activation, [..., units] as in the kernel; or None."""
        return self.gamma if self.normalised else self.kernel


def _without(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise StudyError(f"the scheme needs {what}, which these ingredients came without: give Ingredients a function")

    return refuse


_NO_LAYERS = _without("the layers")
_NO_HIDDEN = _without("the hidden layers")
_NO_STATISTICS = _without("statistics of channels")
_NO_LOSSES = _without("losses")
_NO_GRADIENTS = _without("gradients")


@dataclass(frozen=True)
class Ingredients:
    """What a scheme may use, all of one repeat."""

    fresh: Sequence[np.ndarray]  # fresh weights in Keras's order; the same for every variant
    donors: Sequence[np.ndarray]  # the donors' trained weights in Keras's order, each [D, ...]; perhaps aligned
    kernels: Sequence[ConvKernel]
    rng: np.random.Generator  # for a scheme that needs chance of its own; the same state for every variant
    measure: str | None = None  # the variant's measure
    most: Choice | None = None  # the most alike pair of every filter position; None without a measure
    least: Choice | None = None  # the least alike one
    # The hidden layers, in the order in which data passes them; StudyError for a network of which they cannot be told.
    layers: Callable[[], Sequence[Layer]] = _NO_LAYERS
    # How units of hidden layers hang together, the first first; StudyError for a network that is no chain of layers.
    hidden: Callable[[], Sequence[Hidden]] = _NO_HIDDEN
    # Weights of M networks, each [M, ...] -> of each of `layers` the mean and the standard deviation, each [M, units],
    # of its pre-activations over images of the target data, without their labels.
    channel_statistics: Callable[[Sequence[np.ndarray]], list[tuple[np.ndarray, np.ndarray]]] = _NO_STATISTICS
    # Weights of one network -> the same with moving statistics of batch normalisation those of the same images.
    normalised: Callable[[Sequence[np.ndarray]], list[np.ndarray]] = list
    # Weights of M networks, each [M, ...] -> their mean cross-entropies [M] over the same images, with their labels.
    losses: Callable[[Sequence[np.ndarray]], np.ndarray] = _NO_LOSSES
    # Weights of one network -> the gradient of the mean loss over each batch of the target training data.
    gradients: Callable[[Sequence[np.ndarray]], Iterator[list[np.ndarray]]] = _NO_GRADIENTS

    @property
    def chosen(self) -> np.ndarray | None:
        """The donor that the measure chose for every filter position, [F] int; None without a measure."""
        return None if self.most is None else self.most.drawn_donors


def pair_filters(ingredients: Ingredients, choice: Choice | None) -> list[np.ndarray]:
    """Return the two donor filters of the chosen pairs, the drawn one first.

    Args:
        ingredients: of the repeat.
        choice: its `most` or `least`.

    Returns:
        Per conv layer [2, filters, height, width], the filters in the published order.

    Raises:
        ParameterError: there is no choice, because the variant has no measure.
    """
    if choice is None:
        raise ParameterError("the scheme needs a measure: write the variant as measure+scheme")
    layers, first = [], 0
    for donors in to_filters(ingredients.donors, ingredients.kernels):
        positions = np.arange(first, first + donors.shape[1])
        sides = np.stack([choice.side[positions], 1 - choice.side[positions]])  # [2, filters]
        layers.append(donors[choice.donors[positions, sides], choice.positions[positions, sides] - first])
        first += donors.shape[1]
    return layers


def drawn_filters(ingredients: Ingredients, choice: Choice | None) -> list[np.ndarray]:
    """Return the donor filters drawn from the chosen pairs, per conv layer [filters, height, width].

    Arguments and errors are those of `pair_filters`.
    """
    return [pair[0] for pair in pair_filters(ingredients, choice)]


def drawn_donor(ingredients: Ingredients) -> int:
    """Return a donor drawn at random, from 0.

    It is the same for every scheme whose first draw this is: `rng` has the same state for all of them.
    """
    return int(ingredients.rng.integers(len(ingredients.donors[0])))


def one_donors_weights(ingredients: Ingredients) -> list[np.ndarray]:
    """Return all weights of the donor that `drawn_donor` draws, in Keras's order."""
    donor = drawn_donor(ingredients)
    return [np.array(w[donor]) for w in ingredients.donors]
