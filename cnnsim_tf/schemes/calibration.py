"""Hidden units whose pre-activations are given a mean and a standard deviation: none starts out dead.

A ReLU unit that is negative on every image passes no gradient on and so never changes. Trained filters under fresh
biases and fresh dense weights can make such units, dense ones too: what they read may be large and positive on every
image, so that the sign of a unit's weights decides, and not the image. To mend that, target images without their labels
are enough, and nothing of the donors' data is used.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cnnsim_tf.schemes.controls import one_donor, random_donor, transplant, with_donors_filters
from cnnsim_tf.schemes.entries import SCHEMES
from cnnsim_tf.schemes.ingredients import Ingredients

SMALLEST_SD = 1e-5  # relative to the mean; below it, a pre-activation's variation is rounding and the unit constant


@SCHEMES.register(
    "centred",
    needs_measure=True,
    needs_layers=True,
    kind="candidate",
    control="centred_random_donor",
    summary="the chosen filters, biases such that no hidden unit is dead on target images",
)
def centred(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `transplant` does, with the biases of all hidden layers set on target images.

    Every hidden unit's bias, of convolutions and dense layers, is such that the mean of its pre-activation over target
    images (and places) is 0: it is positive somewhere, so that none is dead. All kernels are those of `transplant`.
    Half of what data-dependent initialisation does (Krähenbühl et al., ICLR 2016), without its scaling.

    A layer without biases stays as it is, and so does a unit that is constant.
    """
    return with_mean_0(transplant(ingredients), ingredients)


@SCHEMES.register(
    "centred_fresh",
    needs_measure=False,
    needs_layers=True,
    kind="control",
    donors="none",
    summary="everything fresh, biases as in centred: is it the biases alone?",
)
def centred_fresh(ingredients: Ingredients) -> list[np.ndarray]:
    """Return the fresh weights with biases as in `centred`: what do donor filters add to it?"""
    return with_mean_0(ingredients.fresh, ingredients)


@SCHEMES.register(
    "centred_random_donor",
    needs_measure=False,
    needs_layers=True,
    kind="control",
    summary="each conv filter from a donor drawn at random, biases as in centred: is it any donor's filters?",
)
def centred_random_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `random_donor` does, with biases as in `centred`: what does its measure add?"""
    return with_mean_0(random_donor(ingredients), ingredients)


@SCHEMES.register(
    "centred_one_donor",
    needs_measure=False,
    needs_layers=True,
    kind="control",
    donors="one",
    summary="all conv filters of the donor that one_donor draws, biases as in centred: need filters be mixed?",
)
def centred_one_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `one_donor` does, with biases as in `centred`: does it matter which donor it is?"""
    return with_mean_0(one_donor(ingredients), ingredients)


@SCHEMES.register(
    "centred_best_donor",
    needs_measure=False,
    needs_layers=True,
    kind="candidate",
    summary="all conv filters of the donor with the smallest loss on target images, biases as in centred",
)
def centred_best_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `centred_one_donor` does, of the donor that fits the target data best as it is.

    That is the one with the smallest mean cross-entropy over the images that units are centred on, here with their
    labels; of equal ones the first. It takes a forward pass of these images per donor, and no measure.
    """
    losses = ingredients.losses(ingredients.donors)
    donor = int(np.argmin(np.where(np.isnan(losses), np.inf, losses)))
    return with_mean_0(with_donors_filters(ingredients, donor), ingredients)


@SCHEMES.register(
    "calibrated",
    needs_measure=True,
    needs_layers=True,
    kind="candidate",
    summary="as centred, and kernels scaled so that pre-activations vary as much as in the fresh network",
)
def calibrated(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `centred` does, with every hidden unit's pre-activation scaled to the fresh network's size too.

    Its standard deviation over target images becomes that of the fresh network's layer (root mean square over units),
    so that against `centred` it tells whether the size of trained filters matters. After LSUV (Mishkin & Matas, ICLR
    2016), which aims at a standard deviation of 1. A layer that sees nothing of the images in the fresh network is not
    scaled.
    """
    fresh = ingredients.channel_statistics([np.asarray(w)[None] for w in ingredients.fresh])
    sizes = [np.sqrt((sd[0].astype(np.float64) ** 2).mean()) for _, sd in fresh]
    units = [layer.units for layer in ingredients.layers()]
    wanted = {i: (np.zeros(n), np.full(n, size)) for i, (n, size) in enumerate(zip(units, sizes, strict=True))}
    return with_statistics(transplant(ingredients), ingredients, wanted)


def with_mean_0(weights: Sequence[np.ndarray], ingredients: Ingredients) -> list[np.ndarray]:
    """Return weights with biases such that every hidden unit's pre-activation has mean 0 over target images."""
    wanted = {i: (np.zeros(layer.units), None) for i, layer in enumerate(ingredients.layers())}
    return with_statistics(weights, ingredients, wanted)


def with_statistics(
    weights: Sequence[np.ndarray], ingredients: Ingredients, wanted: Mapping[int, tuple[np.ndarray, np.ndarray | None]]
) -> list[np.ndarray]:
    """Return weights with hidden units rescaled and shifted so that pre-activations have given means and sds.

    Layer by layer from the front, since each one's statistics depend on those before it. Units whose pre-activation is
    constant are left alone; those that should be are only shifted, and those without a bias only scaled.

    Args:
        weights: of one network in Keras's order.
        ingredients: give the hidden layers and the statistics over target images.
        wanted: for some of the hidden layers, by their place, mean [units] and standard deviation [units], or None
            for that to leave the kernel as it is.

    Returns:
        Weights in Keras's order, the changed ones float64, the others copied.
    """
    made, layers = [np.array(w) for w in weights], ingredients.layers()
    for i in sorted(wanted):
        layer, (wanted_mean, wanted_sd) = layers[i], wanted[i]
        now = ingredients.channel_statistics([w[None].astype(np.float32) for w in made])[i]
        mean, sd = (np.asarray(s[0], np.float64) for s in now)
        varies = sd > SMALLEST_SD * np.abs(mean)
        factor = np.ones_like(sd)
        if wanted_sd is not None and layer.scale is not None:
            np.divide(wanted_sd, sd, out=factor, where=varies & (wanted_sd > 0))
            scaled = made[layer.scale].reshape(-1, layer.units) * factor
            made[layer.scale] = scaled.reshape(made[layer.scale].shape)
        if layer.bias is not None:
            bias = made[layer.bias].astype(np.float64)
            made[layer.bias] = np.where(varies, (bias - mean) * factor + wanted_mean, bias)
    return made
