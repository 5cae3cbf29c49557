"""Permutation and scale alignment of whole networks by weight matching (Git Re-Basin)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cnnsim_tf.errors import StudyError
from cnnsim_tf.measures import SMALLEST_NORM

RESTARTS = 20
TOLERANCE = 1e-12  # of a cosine: a smaller gain is rounding
BALANCE_SWEEPS = 1000  # at the most; some dozens do for trained networks


@dataclass(frozen=True)
class Hidden:
    """One layer whose units (channels or dense units) may change places, and the weights that a change touches."""

    layer: str
    kernel: int  # position of its kernel in Keras's weight order; the units are its last axis
    bias: int | None  # position of its bias, [units]
    # Position of the kernel that reads its units, on its last axis but one. Of a Dense after a Flatten these are the
    # rows, in blocks: position by position of the feature maps, in it channel by channel.
    next_kernel: int
    units: int
    # Whether only positively homogeneous layers (ReLU, pooling) follow up to the next kernel, so that a unit that is
    # scaled by s > 0 can be made good by 1/s there.
    scalable: bool
    # Positions of the vectors of batch normalisation, moving statistics too, that go with the units: [units], or after
    # a Flatten in blocks as the rows there.
    vectors: tuple[int, ...] = ()


@dataclass(frozen=True)
class Aligned:
    """D donors, the units of each at the positions and with the scales of the first one's."""

    weights: list[np.ndarray]  # in Keras's order, each [D, ...] float32
    permutations: list[np.ndarray]  # per hidden layer [D, units] int64: at a new position, the donor's own unit
    scales: list[np.ndarray]  # per hidden layer [D, units] float64, by new position: what incoming weights were times


@dataclass(frozen=True)
class _Balanced:
    """The weights that permutations touch, in float64 and balanced; L hidden layers."""

    kernels: list[np.ndarray]  # L + 1, each [positions, units before, units]
    biases: list[np.ndarray]  # L, each [units]; 0 where a layer has none


def align_network(
    donors: Sequence[np.ndarray], hidden: Sequence[Hidden], rng: np.random.Generator, restarts: int = RESTARTS
) -> Aligned:
    """Align every donor to the first one without changing what it computes.

    Permutations: weight matching (Ainsworth, Hayase & Srinivasa, Git Re-Basin, ICLR 2023, algorithm 1), which
    maximises the inner product of all weights that permutations touch, layer by layer in random order, until no layer
    gains. It starts from no permutation, from a match of incoming weights layer by layer from the first, from one of
    outgoing weights from the last, and from random permutations; the best end is kept, and no permutation where
    nothing is better. A permuted copy of a network is put right exactly, since its incoming weights give it away.

    Scales: a unit's incoming weights and bias may be multiplied by s > 0 and its outgoing weights divided by s where
    what follows is positively homogeneous (ReLU), so that the matching must not depend on how the two share a scale.
    It compares balanced networks: those scales for which every unit's incoming and outgoing norms are equal, which
    are unique and have the smallest sum of squares of all (Stock et al., Equi-normalization, ICLR 2019). Trained
    networks lie near to them (Du, Hu & Lee, 2018), so that every layer keeps the weight in the sum that it has in the
    paper; with incoming norms of 1 all magnitudes would gather in the last layer instead. In the result every unit's
    incoming norm is that of the first donor's unit; a dead unit, and one matched with a dead unit (incoming norm under
    1e-8), keeps its own scale.

    Args:
        donors: weights in Keras's order, each [D, ...] float32.
        hidden: the network's hidden layers.
        rng: draws the order of layers and the random starts, for every donor independently of the others.
        restarts: number of random starts; with more of them no inner product is smaller.

    Returns:
        Aligned. The first donor's weights are its own, bit for bit.

    Raises:
        StudyError: a donor has weights that are not finite.
    """
    if bad := [d + 1 for d in range(len(donors[0])) if not all(np.isfinite(w[d]).all() for w in donors)]:
        raise StudyError(f"donor {bad[0]} has weights that are not finite and cannot be aligned: train it anew")
    own = [[np.array(w[d], np.float32) for w in donors] for d in range(len(donors[0]))]
    reference = _balanced(own[0], hidden)
    weights, permutations, scales = [], [], []
    # Generators of their own, so that a donor's result depends neither on the others nor on what was drawn for them.
    chances = [np.random.default_rng(seed) for seed in rng.integers(2**63, size=len(own))]
    for d, (donor, chance) in enumerate(zip(own, chances, strict=True)):
        found = [np.arange(h.units) for h in hidden]
        if d > 0:
            found = _matched(reference, _balanced(donor, hidden), chance, restarts)
        moved, factors = _rescaled(_permuted(donor, hidden, found), own[0], hidden)
        weights.append(moved)
        permutations.append(found)
        scales.append(factors)
    return Aligned(_stacked(weights), _stacked(permutations), _stacked(scales))


def _stacked(lists: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    return [np.stack(arrays) for arrays in zip(*lists, strict=True)]


def _matched(a: _Balanced, b: _Balanced, rng: np.random.Generator, restarts: int) -> list[np.ndarray]:
    """Return the best permutations of b that coordinate descent finds from any start."""
    enough = TOLERANCE * _norm(a) * _norm(b)
    best, best_product = [np.arange(len(x)) for x in b.biases], -np.inf
    for start in _starts(a, b, rng, restarts):
        found = _descended(a, b, start, rng, enough)
        product = _product(a, b, found)
        if product > best_product + enough:
            best, best_product = found, product
    return best


def _starts(a: _Balanced, b: _Balanced, rng: np.random.Generator, restarts: int) -> Iterator[list[np.ndarray]]:
    identity = [np.arange(len(x)) for x in b.biases]
    yield list(identity)
    forward, backward = list(identity), list(identity)
    for at in range(len(identity)):
        forward[at] = _assigned(_incoming(a, b, forward, at))
    yield forward
    for at in reversed(range(len(identity))):
        backward[at] = _assigned(_outgoing(a, b, backward, at))
    yield backward
    for _ in range(restarts):
        yield [rng.permutation(len(x)) for x in identity]


def _descended(
    a: _Balanced, b: _Balanced, start: list[np.ndarray], rng: np.random.Generator, enough: float
) -> list[np.ndarray]:
    permutations, gained = list(start), True
    while gained:
        gained = False
        for at in rng.permutation(len(permutations)):
            products = _incoming(a, b, permutations, at) + _outgoing(a, b, permutations, at)
            better, places = _assigned(products), np.arange(len(products))
            if products[places, better].sum() > products[places, permutations[at]].sum() + enough:
                permutations[at], gained = better, True
    return permutations


def _assigned(products: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment  # here, since it takes a good part of a second

    return linear_sum_assignment(products, maximize=True)[1].astype(np.int64)


def _incoming(a: _Balanced, b: _Balanced, permutations: list[np.ndarray], at: int) -> np.ndarray:
    """Return the inner products [units of a, units of b] of a hidden layer's incoming weights and biases."""
    ours, theirs = a.kernels[at], b.kernels[at]
    if at > 0:
        theirs = theirs[:, permutations[at - 1]]
    units = ours.shape[-1]
    return ours.reshape(-1, units).T @ theirs.reshape(-1, units) + np.outer(a.biases[at], b.biases[at])


def _outgoing(a: _Balanced, b: _Balanced, permutations: list[np.ndarray], at: int) -> np.ndarray:
    """Return the inner products [units of a, units of b] of a hidden layer's outgoing weights."""
    ours, theirs = a.kernels[at + 1], b.kernels[at + 1]
    if at + 1 < len(permutations):
        theirs = theirs[..., permutations[at + 1]]
    ours, theirs = (x.transpose(1, 0, 2).reshape(x.shape[1], -1) for x in (ours, theirs))
    return ours @ theirs.T


def _product(a: _Balanced, b: _Balanced, permutations: list[np.ndarray]) -> float:
    """Return the inner product of all weights of a with the permuted ones of b."""
    total = 0.0
    for at, permutation in enumerate(permutations):
        total += _incoming(a, b, permutations, at)[np.arange(len(permutation)), permutation].sum()
    last = len(permutations) - 1
    if permutations:
        total += _outgoing(a, b, permutations, last)[np.arange(len(permutations[last])), permutations[last]].sum()
    return float(total)


def _norm(network: _Balanced) -> float:
    return float(np.sqrt(sum((x * x).sum() for x in (*network.kernels, *network.biases))))


def _balanced(weights: Sequence[np.ndarray], hidden: Sequence[Hidden]) -> _Balanced:
    """Return the weights with those scales of units for which incoming and outgoing norms are equal.

    The sum of squares is convex in the logarithms of the scales; each layer in turn takes its minimum, which is a
    closed form (Stock et al., Equi-normalization, ICLR 2019).
    """
    positions = [h.kernel for h in hidden] + [h.next_kernel for h in hidden[-1:]]
    kernels = [_by_unit(weights[p]) for p in positions]
    for at, h in enumerate(hidden):  # rows of a Dense after a Flatten: blocks of the layer's units
        kernels[at + 1] = kernels[at + 1].reshape(-1, h.units, kernels[at + 1].shape[-1])
    biases = [np.zeros(h.units) if h.bias is None else weights[h.bias].astype(np.float64) for h in hidden]
    squares = [(k * k).sum(0) for k in kernels]
    logs = [np.zeros(k.shape[1]) for k in kernels] + [np.zeros(k.shape[2]) for k in kernels[-1:]]
    for _ in range(BALANCE_SWEEPS):
        moved = 0.0
        for at, h in enumerate(hidden):
            incoming = np.exp(-2 * logs[at]) @ squares[at] + biases[at] ** 2
            outgoing = squares[at + 1] @ np.exp(2 * logs[at + 2])
            alive = h.scalable & (np.minimum(incoming, outgoing) > 0)
            new = np.zeros(h.units)
            new[alive] = np.log(outgoing[alive] / incoming[alive]) / 4
            moved = max(moved, float(np.abs(new - logs[at + 1]).max()))
            logs[at + 1] = new
        if moved < TOLERANCE:
            break
    factors = [np.exp(x) for x in logs]
    return _Balanced(
        [k / factors[at][:, None] * factors[at + 1] for at, k in enumerate(kernels)],
        [b * factors[at + 1] for at, b in enumerate(biases)],
    )


def _by_unit(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel [..., inputs, units] as [positions, inputs, units] float64."""
    return kernel.reshape(-1, *kernel.shape[-2:]).astype(np.float64)


def _permuted(
    weights: Sequence[np.ndarray], hidden: Sequence[Hidden], permutations: Sequence[np.ndarray]
) -> list[np.ndarray]:
    result = list(weights)
    for h, permutation in zip(hidden, permutations, strict=True):
        for position in (h.kernel, h.bias):
            if position is not None:
                result[position] = np.take(result[position], permutation, axis=-1)
        for position in h.vectors:
            vector = result[position]
            result[position] = vector.reshape(-1, h.units)[:, permutation].reshape(vector.shape)
        reader = result[h.next_kernel]
        blocks = reader.reshape(-1, h.units, reader.shape[-1])
        result[h.next_kernel] = np.take(blocks, permutation, axis=1).reshape(reader.shape)
    return result


def _rescaled(
    weights: Sequence[np.ndarray], reference: Sequence[np.ndarray], hidden: Sequence[Hidden]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return weights whose units' incoming norms are those of the reference, and what the units were scaled by.

    Equal weights have equal norms to the last bit, both being summed in the same order, so that their scale is 1.
    """
    result, scales = [w.astype(np.float64) for w in weights], []
    for h in hidden:
        wanted, norms = (_incoming_norms(w, h) for w in (reference, result))
        alive = h.scalable & (np.minimum(wanted, norms) > SMALLEST_NORM)
        scale = np.divide(wanted, norms, out=np.ones(h.units), where=alive)
        for position in (h.kernel, h.bias):
            if position is not None:
                result[position] = result[position] * scale
        reader = result[h.next_kernel]
        blocks = reader.reshape(-1, h.units, reader.shape[-1]) / scale[:, None]
        result[h.next_kernel] = blocks.reshape(reader.shape)
        scales.append(scale)
    return [w.astype(np.float32) for w in result], scales


def _incoming_norms(weights: Sequence[np.ndarray], h: Hidden) -> np.ndarray:
    kernel = weights[h.kernel].astype(np.float64).reshape(-1, h.units)
    bias = 0.0 if h.bias is None else weights[h.bias].astype(np.float64) ** 2
    return np.sqrt((kernel * kernel).sum(0) + bias)
