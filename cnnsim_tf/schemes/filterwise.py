"""Candidates that make each conv filter out of the donors' filters; dense layers stay fresh."""

import numpy as np

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.filters import to_filters, with_filters
from cnnsim_tf.measures import donor_pairs, get_measure, pair_scores
from cnnsim_tf.schemes.calibration import with_mean_0
from cnnsim_tf.schemes.controls import norms, transplant, with_donors_filters, with_norms
from cnnsim_tf.schemes.entries import SCHEMES
from cnnsim_tf.schemes.ingredients import Ingredients, drawn_filters, pair_filters

KMEANS_STARTS = 10  # the best of them is taken: k-means finds local optima
KMEANS_ITERATIONS = 50


@SCHEMES.register(
    "pair_mean", needs_measure=True, kind="candidate", summary="the mean of the two filters that are most alike"
)
def pair_mean(ingredients: Ingredients) -> list[np.ndarray]:
    """Return fresh weights with every conv filter the mean of its chosen pair.

    Measures that are blind to sign pair a filter with its negative, whose plain mean would be near nothing: where the
    two point opposite ways (a·b < 0), the one that was not drawn is negated first.
    """
    means = []
    for drawn, other in pair_filters(ingredients, ingredients.most):
        drawn, other = drawn.astype(np.float64), other.astype(np.float64)
        opposite = (drawn * other).sum((1, 2), keepdims=True) < 0
        means.append((drawn + np.where(opposite, -other, other)) / 2)
    return with_filters(ingredients.fresh, ingredients.kernels, means)


@SCHEMES.register(
    "medoid",
    needs_measure=True,
    kind="candidate",
    control="random_donor",
    summary="the donor filter that is most alike to all donors'",
)
def medoid(ingredients: Ingredients) -> list[np.ndarray]:
    """Return fresh weights with every conv filter from the donor whose filter there is most alike to all the others'.

    That is the largest sum of similarities, or the smallest of distances, over the other donors' filters at the same
    position; of equal ones the first donor's.
    """
    best = _likeness(ingredients).argmax(1)
    layers = to_filters(ingredients.donors, ingredients.kernels)
    chosen, first = [], 0
    for layer in layers:
        count = layer.shape[1]
        chosen.append(layer[best[first : first + count], np.arange(count)])
        first += count
    return with_filters(ingredients.fresh, ingredients.kernels, chosen)


@SCHEMES.register(
    "medoid_donor",
    needs_measure=True,
    kind="candidate",
    control="one_donor",
    summary="all conv filters of the donor whose filters are in sum most alike to the others'",
)
def medoid_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return fresh weights with all conv kernels of the donor that is most alike to all the others.

    That is the one with the largest sum of similarities, or the smallest of distances, over all positions of filters
    and all other donors; of equal ones the first. Its filters belong together, as those of `one_donor` do.
    """
    return with_donors_filters(ingredients, int(_likeness(ingredients).sum(0).argmax()))


@SCHEMES.register(
    "centred_medoid_donor",
    needs_measure=True,
    needs_layers=True,
    kind="candidate",
    control="centred_one_donor",
    summary="all conv filters of the donor that is most alike to the others, biases as in centred",
)
def centred_medoid_donor(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `medoid_donor` does, with biases as in `centred`."""
    return with_mean_0(medoid_donor(ingredients), ingredients)


def _likeness(ingredients: Ingredients) -> np.ndarray:
    """Return how alike each donor's filter at each position is to the other donors' there, in sum, [F, D] float64.

    Larger is more alike, also where the measure is a distance.
    """
    if ingredients.measure is None:
        raise ParameterError("the scheme needs a measure: write the variant as measure+scheme")
    layers = to_filters(ingredients.donors, ingredients.kernels)
    pairs = donor_pairs(len(layers[0]))
    takes_part = (pairs[:, :, None] == np.arange(len(layers[0]))).any(1)  # [pairs, D]
    sums = pair_scores(ingredients.measure, layers).astype(np.float64) @ takes_part
    return sums if get_measure(ingredients.measure).larger_is_more_alike else -sums


@SCHEMES.register(
    "with_biases",
    needs_measure=True,
    needs_chain=True,
    kind="candidate",
    summary="the chosen filters, and as conv biases the mean of those that belonged to a channel's filters",
)
def with_biases(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `transplant` does, with conv biases from the donors too.

    An output channel has one filter per input channel, which may come from several donors: its bias is the mean of the
    biases that its filters had, each in its own donor's channel.

    Raises:
        StudyError: the network is not a chain of layers.
    """
    weights, choice = transplant(ingredients), ingredients.most
    assert choice is not None  # transplant refused it
    biases = {layer.kernel: layer.bias for layer in ingredients.hidden()}
    first = 0
    for kernel in ingredients.kernels:
        bias, channels_in = biases.get(kernel.position), kernel.shape[2]
        positions = np.arange(first, first + kernel.filters)
        first += kernel.filters
        if bias is not None:
            side = choice.side[positions]
            channel = (choice.positions[positions, side] - positions[0]) // channels_in  # in the filter's own donor
            own = ingredients.donors[bias].astype(np.float64)[choice.donors[positions, side], channel]
            weights[bias] = own.reshape(-1, channels_in).mean(1)
    return weights


@SCHEMES.register(
    "rescaled", needs_measure=True, kind="candidate", summary="the chosen filters with the norms of the fresh ones"
)
def rescaled(ingredients: Ingredients) -> list[np.ndarray]:
    """Return what `transplant` does, each filter scaled to the norm of the fresh filter in its place."""
    chosen = drawn_filters(ingredients, ingredients.most)
    fresh = to_filters(ingredients.fresh, ingredients.kernels)
    scaled = [with_norms(c, norms(f)) for c, f in zip(chosen, fresh, strict=True)]
    return with_filters(ingredients.fresh, ingredients.kernels, scaled)


@SCHEMES.register(
    "cluster", needs_measure=False, kind="candidate", summary="k-means centroids of all donors' filters of a layer"
)
def cluster(ingredients: Ingredients) -> list[np.ndarray]:
    """Return fresh weights with the conv filters of a layer the centroids of all donors' filters of that layer.

    There are as many as the layer has filters, by k-means with ++ starts (Arthur & Vassilvitskii 2007), the best of
    ten. A centroid has no place of its own: they are put where, in all, they are nearest (squared distance) to the mean
    of the donors' filters at each position.

    Raises:
        StudyError: k-means found no clustering without an empty cluster.
    """
    from scipy.optimize import linear_sum_assignment  # here, as in `centroids`, since they take a second
    from scipy.spatial.distance import cdist

    layers = []
    for donors in to_filters(ingredients.donors, ingredients.kernels):
        flat = donors.astype(np.float64).reshape(*donors.shape[:2], -1)  # [D, filters, n]
        found = centroids(flat.reshape(-1, flat.shape[-1]), flat.shape[1], ingredients.rng)
        _, order = linear_sum_assignment(cdist(flat.mean(0), found, "sqeuclidean"))
        layers.append(found[order].reshape(donors.shape[1:]))
    return with_filters(ingredients.fresh, ingredients.kernels, layers)


def centroids(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the k-means centroids [count, n] of points [N, n], float64, in no particular order.

    Where there are no more different points than `count`, they are the centroids, some of them more than once.

    Raises:
        StudyError: every start ended with an empty cluster.
    """
    from scipy.cluster.vq import ClusterError, kmeans2

    different = np.unique(points, axis=0)
    if len(different) <= count:
        return different[np.arange(count) % len(different)]
    best, least = None, np.inf
    for _ in range(KMEANS_STARTS):
        try:
            found, label = kmeans2(points, count, KMEANS_ITERATIONS, minit="++", missing="raise", rng=rng)
        except ClusterError:
            continue
        if (spread := ((points - found[label]) ** 2).sum()) < least:
            best, least = found, spread
    if best is None:
        raise StudyError(
            f"k-means found no {count} clusters among {len(points)} donor filters: leave the variant cluster out"
        )
    return best
