"""Conv kernels as arrays of filters with names, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Groups = Sequence[tuple[str, slice]]  # names of filters, or of groups of them, and their places among all
MOST_SHOWN = 80  # filters that figures and pages show one by one; of more they show layers
MOST_LISTED = 2_000  # that tables have a row each of


@dataclass(frozen=True)
class ConvKernel:
    """Where one Conv2D kernel stands among a model's weights."""

    layer: str
    position: int  # in Keras's weight order
    shape: tuple[int, int, int, int]  # height, width, input channels, output channels

    @property
    def filters(self) -> int:
        """Number of filters, one per pair of output and input channel."""
        return self.shape[2] * self.shape[3]


def filter_names(kernels: Sequence[ConvKernel]) -> list[str]:
    """Return the filters' names in the published order, such as `conv2[out 1][in 0]` (channels from 0)."""
    names = []
    for kernel in kernels:
        channels_in, channels_out = kernel.shape[2:]
        for o in range(channels_out):
            for i in range(channels_in):
                names.append(f"{kernel.layer}[out {o}]" + (f"[in {i}]" if channels_in > 1 else ""))
    return names


def first_filters(kernels: Sequence[ConvKernel]) -> list[int]:
    """Return which filters, by their places among all, pictures show: all, or of many the first ones of every layer."""
    counts = [kernel.filters for kernel in kernels]
    each = max((n for n in range(1, MOST_SHOWN + 1) if sum(min(n, c) for c in counts) <= MOST_SHOWN), default=1)
    starts = np.cumsum([0, *counts])
    return [int(start) + i for start, c in zip(starts, counts, strict=False) for i in range(min(each, c))]


def each_filter(names: Sequence[str]) -> Groups:
    """Return groups of one filter each."""
    return [(name, slice(f, f + 1)) for f, name in enumerate(names)]


def groups_of(kernels: Sequence[ConvKernel], most: int) -> Groups:
    """Return every filter, or those of every layer where there are more than `most`."""
    counts = [kernel.filters for kernel in kernels]
    if sum(counts) <= most:
        return each_filter(filter_names(kernels))
    ends = np.cumsum(counts).tolist()
    return [
        (f"{kernel.layer}, {count:,} filter{'s' * (count > 1)}", slice(end - count, end))
        for kernel, count, end in zip(kernels, counts, ends, strict=True)
    ]


def kind_of(groups: Groups) -> str:
    """Return what such groups are: filters or layers."""
    return "filter" if all(at.stop - at.start == 1 for _, at in groups) else "layer"


def to_filters(
    weights: Sequence[np.ndarray] | Mapping[int, np.ndarray], kernels: Sequence[ConvKernel]
) -> list[np.ndarray]:
    """Return the filters of every layer.

    Args:
        weights: in Keras's weight order, or by their positions in it, each with the same leading axes [...].
        kernels: which of them are conv kernels.

    Returns:
        Per layer [..., filters, height, width] in the published order: output channel by output channel, in it
        input channel by input channel.
    """
    layers = []
    for kernel in kernels:
        array = np.moveaxis(weights[kernel.position], (-1, -2), (-4, -3))  # [..., out, in, height, width]
        layers.append(array.reshape(*array.shape[:-4], kernel.filters, *kernel.shape[:2]))
    return layers


def with_filters(
    weights: Sequence[np.ndarray], kernels: Sequence[ConvKernel], filters: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Return `weights` with their conv kernels made of `filters`: the inverse of `to_filters`.

    The arguments and their shapes are those of `to_filters`; what is not a conv kernel is copied unchanged.
    """
    result = [np.array(w) for w in weights]
    for kernel, array in zip(kernels, filters, strict=True):
        height, width, channels_in, channels_out = kernel.shape
        array = array.reshape(*array.shape[:-3], channels_out, channels_in, height, width)
        result[kernel.position] = np.ascontiguousarray(np.moveaxis(array, (-4, -3), (-1, -2)))
    return result
