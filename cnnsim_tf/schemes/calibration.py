"""Hidden units whose pre-activations are given a mean and a standard deviation: no channel starts out dead.

A ReLU channel that is negative on every image passes no gradient to its filters and so never changes. Filters of
several donors under fresh biases can make such channels. What is needed to mend that are target images without their
labels, and nothing of the donors' data.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cnnsim_tf.schemes.controls import random_donor, transplant
from cnnsim_tf.schemes.entries import scheme
from cnnsim_tf.schemes.ingredients import Ingredients

SMALLEST_SD = 1e-5  # relative to the mean; below it, a pre-activation's variation is rounding and the unit constant


@scheme(
    "calibrated",
    needs_measure=True,
    kind="candidate",
    summary="the chosen filters, scaled and shifted so that every conv channel is alive on target images",
)
def calibrated(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `transplant` does, with every conv channel calibrated on target images.

    Its kernel is scaled and its bias set so that its pre-activation has mean 0 and the standard deviation of the fresh
    network's layer (root mean square over channels): positive somewhere, so that no channel is dead, and for the dense
    layers as large as in `random_init`. After the data-dependent initialisation of Krähenbühl et al. (ICLR 2016) and
    LSUV (Mishkin & Matas, ICLR 2016), which aim at a standard deviation of 1.

    A layer without biases is only scaled, one that sees nothing of the images in the fresh network only shifted; a
    channel that is constant is left alone.

    Raises:
        StudyError: the network is not a chain of layers.
    """
    return calibrated_like_fresh(transplant(ingredients), ingredients)


@scheme(
    "calibrated_fresh",
    needs_measure=False,
    kind="control",
    donors="none",
    summary="fresh conv filters, calibrated as in calibrated: is it the calibration alone?",
)
def calibrated_fresh(ingredients: Ingredients) -> list[np.ndarray]:
    """Return the fresh weights, calibrated as in `calibrated`: what do its filters add to the calibration?"""
    return calibrated_like_fresh(ingredients.fresh, ingredients)


@scheme(
    "calibrated_random_donor",
    needs_measure=False,
    kind="control",
    summary="each conv filter from a donor drawn at random, calibrated as in calibrated: is it any donor's filters?",
)
def calibrated_random_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `random_donor` does, calibrated as in `calibrated`: what does its measure add?"""
    return calibrated_like_fresh(random_donor(ingredients), ingredients)


def calibrated_like_fresh(weights: Sequence[np.ndarray], ingredients: Ingredients) -> list[np.ndarray]:
    """Return weights whose conv channels have mean 0 and the standard deviation of the fresh network's layer.

    Weights of other layers are unchanged, bit for bit.
    """
    convolutions = {kernel.position for kernel in ingredients.kernels}
    fresh = ingredients.channel_statistics([np.asarray(w)[None] for w in ingredients.fresh])
    wanted = {}
    for i, (layer, (_, sd)) in enumerate(zip(ingredients.hidden(), fresh, strict=True)):
        if layer.kernel in convolutions:
            units = sd.shape[1]
            wanted[i] = np.zeros(units), np.full(units, np.sqrt((sd[0].astype(np.float64) ** 2).mean()))
    return with_statistics(weights, ingredients, wanted)


def with_statistics(
    weights: Sequence[np.ndarray], ingredients: Ingredients, wanted: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> list[np.ndarray]:
    """Return weights with hidden units rescaled and shifted so that pre-activations have given means and sds.

    Layer by layer from the front, since each one's statistics depend on those before it. Units whose pre-activation is
    constant are left alone; those that should be are only shifted, and those without a bias only scaled.

    Args:
        weights: of one network in Keras's order.
        ingredients: give the hidden layers and the statistics over target images.
        wanted: for some of the hidden layers, by their place, mean [units] and standard deviation [units].

    Returns:
        Weights in Keras's order, the changed ones float64, the others copied.
    """
    made, hidden = [np.array(w) for w in weights], ingredients.hidden()
    for i in sorted(wanted):
        layer, (wanted_mean, wanted_sd) = hidden[i], wanted[i]
        now = ingredients.channel_statistics([w[None].astype(np.float32) for w in made])[i]
        mean, sd = (np.asarray(s[0], np.float64) for s in now)
        varies = sd > SMALLEST_SD * np.abs(mean)
        factor = np.divide(wanted_sd, sd, out=np.ones_like(sd), where=varies & (wanted_sd > 0))
        made[layer.kernel] = made[layer.kernel] * factor  # units are its last axis
        if layer.bias is not None:
            bias = made[layer.bias].astype(np.float64)
            made[layer.bias] = np.where(varies, (bias - mean) * factor + wanted_mean, bias)
    return made
