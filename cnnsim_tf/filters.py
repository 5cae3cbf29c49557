"""Conv kernels as arrays of filters with names, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


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
