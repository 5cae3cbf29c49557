"""Similarity measures between the same layer of two networks, from their activations on the same images.

They compare matrices of which row i of one belongs to row i of the other; each measure says what a row is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.measures import donor_pairs
from cnnsim_tf.registry import Registry

CONSTANT = 1e-6  # what varies by less than this part of its size is constant but for the rounding of float32
RESOLUTION = 1e-12  # below this part of the Gram matrix its debiased form is the rounding of float64

FEATURES = "a rotation of the features, scale and an offset of each feature"
IMAGE = "one image: all features of the layer, every position of every channel, in its columns"

# Takes what `prepare` made of either network's activations and returns their score.
LayerScoreFunction = Callable[[Any, Any], float]


class UndefinedScoreError(StudyError):
    """Raised where a measure has no answer: the score is NaN, and the message is its reason."""


@dataclass(frozen=True)
class LayerMeasure:
    """A measure between layers and how to read it; the defaults hold for a user's plain function."""

    score: LayerScoreFunction
    larger_is_more_alike: bool = True
    low: float = -np.inf  # of its range
    high: float = np.inf
    # What may be done to the activations of either network without changing a score, in words.
    invariant_to: str = "unknown"
    row: str = "unknown"  # what a row of the compared matrices is
    # What depends on one network only, made once for all its pairs, of its activations, [n, h, w, c] or [n, c] float64.
    # It may raise UndefinedScoreError; its message goes on after "donor 1's layer ".
    prepare: Callable[[np.ndarray], Any] = np.asarray

    def __call__(self, a: np.ndarray, b: np.ndarray) -> float:
        """Return the score of activations a against b, [n, h, w, c] or [n, c] each.

        Raises:
            UndefinedScoreError: it has none.
        """
        return self.score(self.prepare(a.astype(np.float64)), self.prepare(b.astype(np.float64)))


@dataclass(frozen=True)
class LayerScores:
    """The scores of all pairs of donors at one layer."""

    scores: np.ndarray  # [pairs] float32 in the order of `donor_pairs`; NaN where undefined
    reasons: tuple[str, ...]  # [pairs], why there is no score; "" where there is one


LAYER_MEASURES: Registry[LayerMeasure] = Registry("layer measure", chance="", entry=LayerMeasure)
get_layer_measure = LAYER_MEASURES.get


def pair_layer_scores(name: str, activations: np.ndarray) -> LayerScores:
    """Score one layer over every pair of donors.

    Args:
        name: of the measure; a user's own gets two donors' activations, float64 and read-only.
        activations: [D, n, h, w, c] or [D, n, c] float32: what the layer of each of D donors puts out, after its
            activation function, for the same n images.

    Returns:
        A score for each pair, or NaN and its reason, such as "donor 3's layer gives the same output for every image"
        (donors counted from 1).

    Raises:
        ParameterError: the name is unknown.
        StudyError: a user's measure returned something else than one number.
    """
    measure = get_layer_measure(name)
    prepared = [_prepared(name, measure, donor, array) for donor, array in enumerate(activations)]
    pairs = [_scored(name, measure, prepared[i], prepared[j]) for i, j in donor_pairs(len(activations))]
    return LayerScores(np.array([s for s, _ in pairs], np.float32), tuple(reason for _, reason in pairs))


def _prepared(name: str, measure: LayerMeasure, donor: int, activations: np.ndarray) -> Any:
    """Return what the measure makes of one donor's activations, or an UndefinedScoreError that names the donor."""
    if not np.isfinite(activations).all():
        return UndefinedScoreError(f"donor {donor + 1}'s layer gives values that are not finite")
    array = activations.astype(np.float64)
    array.flags.writeable = False  # all pairs of a donor share it
    try:
        return LAYER_MEASURES.call(name, measure.prepare, array)
    except UndefinedScoreError as reason:
        return UndefinedScoreError(f"donor {donor + 1}'s layer {reason}")


def _scored(name: str, measure: LayerMeasure, a: Any, b: Any) -> tuple[float, str]:
    """Return the score of a pair and "", or NaN and the reason."""
    reasons = [str(x) for x in (a, b) if isinstance(x, UndefinedScoreError)]
    if reasons:
        return np.nan, "; ".join(reasons)
    try:
        score = LAYER_MEASURES.call(name, lambda: np.asarray(measure.score(a, b)))
    except UndefinedScoreError as reason:
        return np.nan, str(reason)
    if score.shape != () or score.dtype.kind not in "fiub" or abs(score) > np.finfo(np.float32).max:
        raise StudyError(
            f"the layer measure {name!r} returned {' '.join(str(score).split())[:100]} ({score.dtype}, shape "
            f"{score.shape}): for the activations of two networks it must return one finite number, or NaN"
        )
    return float(score), "the measure returned NaN" if np.isnan(score) else ""


def _features(activations: np.ndarray) -> np.ndarray:
    """Return the centred features [n, features] of n images."""
    features = activations.reshape(len(activations), -1)
    centred = features - features.mean(0)
    if np.linalg.norm(centred) <= CONSTANT * np.linalg.norm(features):
        raise UndefinedScoreError("gives the same output for every image")
    return centred


def _gram(activations: np.ndarray) -> np.ndarray:
    """Return the Gram matrix [n, n] of the centred features, of norm 1."""
    # Here, since it takes a good part of a second; and not numpy's BLAS, which is older: processors that it does not
    # know it takes for ones of 2004.
    from scipy.linalg.blas import dsyrk

    upper = dsyrk(1.0, _features(activations).T, trans=1)
    gram = upper + upper.T
    np.fill_diagonal(gram, upper.diagonal())
    return gram / np.linalg.norm(gram)


@LAYER_MEASURES.register(
    "linear_cka", larger_is_more_alike=True, low=0, high=1, invariant_to=FEATURES, row=IMAGE, prepare=_gram
)
def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Return ⟨K, L⟩ / (‖K‖·‖L‖) of two networks' centred Gram matrices.

    Kornblith, Norouzi, Lee and Hinton, Similarity of neural network representations revisited (2019). Undefined where
    a network gives the same output for every image. With fewer images than features it is near 1 for unrelated networks
    too: compare it with networks that aren't trained, or see `debiased_cka`.
    """
    return float(np.clip(np.vdot(a, b), 0.0, 1.0))  # rounding may lead a hair past either end


def _u_centred_gram(activations: np.ndarray) -> np.ndarray:
    """Return the Gram matrix [n, n] without its diagonal, U-centred, of norm 1."""
    images = len(activations)
    if images < 4:
        raise UndefinedScoreError(f"saw {images} image{'s' * (images > 1)}: debiased_cka needs at least 4")
    gram = _gram(activations)
    np.fill_diagonal(gram, 0)
    sums = gram.sum(0)
    gram -= (sums[:, None] + sums) / (images - 2) - sums.sum() / ((images - 1) * (images - 2))
    np.fill_diagonal(gram, 0)
    norm = np.linalg.norm(gram)
    if norm <= RESOLUTION:  # its square is the self-term; the whole Gram matrix has norm 1
        raise UndefinedScoreError("has a debiased self-term that is not above 0")
    return gram / norm


@LAYER_MEASURES.register(
    "debiased_cka", larger_is_more_alike=True, low=-1, high=1, invariant_to=FEATURES, row=IMAGE, prepare=_u_centred_gram
)
def debiased_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Return HSIC₁(K, L) / √(HSIC₁(K, K)·HSIC₁(L, L)), about 0 for unrelated representations.

    Untrained networks are not unrelated: they see the same images.

    HSIC₁ is the unbiased estimator of Song, Smola, Gretton, Bedo and Borgwardt, Feature selection via dependence
    maximization (2012), used so by Nguyen, Raghu and Kornblith, Do wide and deep networks learn the same things?
    (2021). It is the inner product of U-centred Gram matrices over n(n − 3) (Székely and Rizzo, Partial distance
    correlation, 2014), so that a self-term is never below 0; undefined where it is 0, as where the layer answers to one
    image only, and with fewer than 4 images.
    """
    return float(np.clip(np.vdot(a, b), -1.0, 1.0))  # rounding, as above


def _shape(activations: np.ndarray) -> np.ndarray:
    """Return the centred features, of norm 1, turned into no more columns than images: [n, min(n, features)].

    The turn (Q in X = Rᵀ Qᵀ) changes no singular value of a product of two, and saves most of the work. It loses no
    digits, as the square root of a Gram matrix would where features depend on each other.
    """
    from scipy.linalg import qr

    features = _features(activations)
    features /= np.linalg.norm(features)
    images, columns = features.shape
    if columns > images:
        features = qr(features.T, mode="r", overwrite_a=True, check_finite=False)[0][:images].T
    return np.asfortranarray(features)  # as BLAS takes it without a copy


@LAYER_MEASURES.register(
    "procrustes", larger_is_more_alike=False, low=0, high=2, invariant_to=FEATURES, row=IMAGE, prepare=_shape
)
def procrustes(a: np.ndarray, b: np.ndarray) -> float:
    """Return min ‖X − Y·Q‖² over rotations Q, features centred and of norm 1: 2 − 2·‖Xᵀ Y‖ in the nuclear norm.

    Ding, Denain and Steinhardt, Grounding representation similarity with statistical testing (2021). Smaller is more
    alike; its square root is a metric. Undefined where a network gives the same output for every image.
    """
    from scipy.linalg.blas import dgemm

    # By numpy, which lets other threads compute meanwhile.
    singular_values = np.linalg.svd(dgemm(1.0, a, b, trans_a=True), compute_uv=False)
    return float(max(2 - 2 * singular_values.sum(), 0.0))  # rounding may lead a hair below 0


def _responses(activations: np.ndarray) -> np.ndarray:
    """Return each channel's responses [c, rows], centred and of norm 1; 0 for constant channels."""
    responses = np.ascontiguousarray(activations.reshape(-1, activations.shape[-1]).T)
    centred = responses - responses.mean(1, keepdims=True)
    norms, sizes = (np.linalg.norm(x, axis=1, keepdims=True) for x in (centred, responses))
    alive = norms > CONSTANT * sizes
    if not alive.any():
        raise UndefinedScoreError("gives the same output everywhere for every image")
    return np.divide(centred, norms, out=np.zeros_like(centred), where=alive)


@LAYER_MEASURES.register(
    "soft_matching",
    larger_is_more_alike=True,
    low=-1,
    high=1,
    invariant_to="a permutation of the channels, a scale of each channel and an offset of each channel",
    row="one position of one image (of a dense layer: one image): a channel of the layer in each column",
    prepare=_responses,
)
def soft_matching(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean correlation of the channels' responses, each channel matched with one of the other network's.

    The matching is the one that makes it largest. Khosla and Williams, Soft matching distance (2023), in the form of
    correlations and for networks of equal size, where the soft matching is an assignment. A constant (dead) channel
    has correlation 0 with every other and with itself, so that a layer with dead channels isn't wholly like itself;
    undefined where all channels of a network are constant.
    """
    from scipy.optimize import linear_sum_assignment

    correlations = a @ b.T
    matched = linear_sum_assignment(correlations, maximize=True)
    return float(np.clip(correlations[matched].mean(), -1.0, 1.0))  # rounding, as above
