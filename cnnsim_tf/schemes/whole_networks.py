"""Candidates that set all weights, dense layers included."""

import numpy as np

from cnnsim_tf.alignment import align_network
from cnnsim_tf.schemes.calibration import with_statistics
from cnnsim_tf.schemes.entries import SCHEMES
from cnnsim_tf.schemes.ingredients import Ingredients, one_donors_weights

# Ash & Adams (NeurIPS 2020): shrinkage and the noise's standard deviation in the text ...
SHRINK, NOISE_SD = 0.6, 0.01
# ... and the defaults of their code (run.py of github.com/JordanAsh/warm_start), whose noise is a fresh network: it
# "respects how different kinds of parameters are often initialized differently".
CODE_SHRINK, CODE_PERTURB = 0.4, 0.1

# Shin et al. (NeurIPS 2024): weight of the newest gradient in the moving average, and the smallest factor.
DASH_ALPHA, DASH_LAMBDA = 0.3, 0.3


@SCHEMES.register(
    "aligned_mean",
    needs_measure=False,
    needs_chain=True,
    kind="candidate",
    summary="the mean of all donors' weights after aligning them, with every unit's mean and sd repaired",
)
def aligned_mean(ingredients: Ingredients) -> list[np.ndarray]:
    """Return the mean of all donors' weights after their units were aligned, repaired.

    Units of the donors are matched by their weights (Git Re-Basin, Ainsworth et al., ICLR 2023). Averaging lets the
    variance of pre-activations collapse, which is repaired (REPAIR, Jordan et al., ICLR 2023): every hidden unit is
    rescaled and shifted so that over target images its pre-activation has the mean and the standard deviation that the
    donors have there on average.

    Raises:
        StudyError: the network is not a chain of layers.
    """
    aligned = align_network(ingredients.donors, ingredients.hidden(), ingredients.rng).weights
    mean = [np.asarray(w, np.float64).mean(0) for w in aligned]
    wanted = [(m.mean(0), sd.mean(0)) for m, sd in ingredients.channel_statistics(aligned)]
    return with_statistics(mean, ingredients, dict(enumerate(wanted)))


@SCHEMES.register(
    "shrink_perturb",
    needs_measure=False,
    kind="candidate",
    donors="one",
    summary="0.6 times all weights of the donor that one_donor draws, plus noise of sd 0.01",
)
def shrink_perturb(ingredients: Ingredients) -> list[np.ndarray]:
    """Return λ·w + N(0, σ²) of one donor's weights w, λ = 0.6, σ = 0.01 (Ash & Adams, NeurIPS 2020, their text)."""
    donor = one_donors_weights(ingredients)
    return [SHRINK * w + ingredients.rng.normal(0, NOISE_SD, w.shape) for w in donor]


@SCHEMES.register(
    "shrink_perturb_fresh",
    needs_measure=False,
    kind="candidate",
    donors="one",
    summary="0.4 times all weights of the donor that one_donor draws, plus 0.1 times the fresh weights",
)
def shrink_perturb_fresh(ingredients: Ingredients) -> list[np.ndarray]:
    """Return 0.4·w + 0.1·fresh of one donor's weights w: shrink-perturb as Ash & Adams's code does it.

    Their `shrink_perturb` adds `perturb` times the parameters of a freshly initialised network to `shrink` times the
    trained ones, biases included; the factors are its defaults.
    """
    donor = one_donors_weights(ingredients)
    return [CODE_SHRINK * w + CODE_PERTURB * f for w, f in zip(donor, ingredients.fresh, strict=True)]


@SCHEMES.register(
    "dash",
    needs_measure=False,
    target_epochs=1,
    kind="candidate",
    donors="one",
    summary="all weights of the donor that one_donor draws, shrunk the more the less the target's gradient agrees",
)
def dash(ingredients: Ingredients) -> list[np.ndarray]:
    """Return one donor's weights after direction-aware shrinking (DASH, Shin et al., NeurIPS 2024).

    g is the moving average of the negative gradients over the batches of the target data, g ← 0.7·g + 0.3·(−∇), at the
    donor's weights. Every vector of weights is multiplied by its cosine with g, or by λ = 0.3 where that is less. The
    vectors are those of the authors' code: each filter of a convolution, all incoming weights of a dense unit, and all
    biases of a layer together. Where weights or g are zero, the cosine counts as 0. Weights of other layers stay.
    """
    weights = one_donors_weights(ingredients)
    average = [np.zeros(w.shape) for w in weights]
    for gradients in ingredients.gradients(weights):
        average = [(1 - DASH_ALPHA) * a - DASH_ALPHA * g for a, g in zip(average, gradients, strict=True)]
    return [shrunk(w, g) for w, g in zip(weights, average, strict=True)]


def shrunk(weights: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Return one layer's kernel or biases, each vector times max(0.3, its cosine with the same one of `towards`).

    Args:
        weights: [height, width, in, out] of a convolution, [in, out] of a dense layer or [units]; others stay.
        towards: of the same shape.

    Returns:
        The same shape, float64.
    """
    if weights.ndim not in (1, 2, 4):
        return np.array(weights, np.float64)
    axes = (0, 1) if weights.ndim == 4 else (0,)
    w, g = weights.astype(np.float64), towards.astype(np.float64)
    lengths = np.sqrt((w**2).sum(axes, keepdims=True) * (g**2).sum(axes, keepdims=True))
    cosine = np.divide((w * g).sum(axes, keepdims=True), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return w * np.maximum(DASH_LAMBDA, np.minimum(cosine, 1))  # rounding may lead a hair past 1
