"""Small ingredients for the tests of schemes: random weights of the reference CNN on images of 12×12 pixels."""

from functools import cache

import numpy as np
import tensorflow as tf

from cnnsim_tf.alignment.hidden import hidden_layers
from cnnsim_tf.filters import to_filters
from cnnsim_tf.measures import donor_pairs, get_measure, pair_scores
from cnnsim_tf.models import build, conv_kernels
from cnnsim_tf.schemes import Choice, Ingredients, Layer
from cnnsim_tf.selection import select_pairs

DONORS, FILTERS = 6, 10
SHAPES = [(3, 3, 1, 2), (2,), (3, 3, 2, 4), (4,), (36, 16), (16,), (16, 10), (10,)]
KERNELS, BIASES = (0, 2), (1, 3)  # positions of conv layers' weights in Keras's order


@cache
def kernels():
    return conv_kernels(build("reference", 12, 10))


@cache
def hidden():
    return hidden_layers(build("reference", 12, 10))


def network(rng):
    """Return random weights with the norms that fresh ones have."""
    return [rng.normal(0, 0.6 / np.sqrt(np.prod(s[:-1]) + 1), s).astype(np.float32) for s in SHAPES]


def stacked(networks):
    return [np.stack(w) for w in zip(*networks, strict=True)]


def images(count=64):
    """Return strokes on a dark ground, as in MNIST, [N, 12, 12] float32 in [-1, 1]."""
    smooth = np.cumsum(np.random.default_rng(99).normal(size=(count, 12, 12)), axis=1)
    return np.clip(smooth - 1, -1, 1).astype(np.float32)


def preactivations(weights, pictures):
    """Return what enters each hidden layer's ReLU, [N, ..., units] each, and the logits at last."""
    conv1, bias1, conv2, bias2, dense1, bias3, dense2, bias4 = [tf.constant(np.asarray(w, np.float32)) for w in weights]
    a = tf.nn.conv2d(pictures[..., None], conv1, 1, "SAME") + bias1
    b = tf.nn.conv2d(tf.nn.max_pool2d(tf.nn.relu(a), 2, 2, "VALID"), conv2, 1, "SAME") + bias2
    flat = tf.reshape(tf.nn.max_pool2d(tf.nn.relu(b), 2, 2, "VALID"), (len(pictures), -1))
    c = flat @ dense1 + bias3
    return [x.numpy() for x in (a, b, c, tf.nn.relu(c) @ dense2 + bias4)]


def channel_statistics(weights):
    """Return per hidden layer mean and standard deviation [M, units] over the images."""
    networks = [preactivations([w[m] for w in weights], images()) for m in range(len(weights[0]))]
    layers = []
    for values in list(zip(*networks, strict=True))[:3]:
        flat = [v.reshape(-1, v.shape[-1]).astype(np.float64) for v in values]
        layers.append((np.stack([f.mean(0) for f in flat]), np.stack([f.std(0) for f in flat])))
    return layers


def losses(weights):
    """Return the mean cross-entropies [M] over the images, of labels that go round."""
    labels = np.arange(len(images())) % 10
    logits = [preactivations([w[m] for w in weights], images())[-1] for m in range(len(weights[0]))]
    return np.array([(np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), labels]).mean() for x in logits])


def unmatched(donors, side=None):
    """Return the choice of pairs of donors [F, 2], every filter in its own place."""
    donors = np.asarray(donors)
    own = np.repeat(np.arange(len(donors))[:, None], 2, 1)
    return Choice(donors, own, np.zeros(len(donors), int) if side is None else np.asarray(side))


def from_one_donor_each(chosen):
    """Return the choice whose drawn filters are of the donors `chosen` [F]."""
    chosen = np.asarray(chosen)
    return unmatched(np.stack([chosen, (chosen + 1) % DONORS], 1))


def ingredients(seed=0, measure="cosine", **changes):
    """Return ingredients of random networks, the pairs chosen by a measure (None: not chosen)."""
    rng = np.random.default_rng(seed)
    parts = {"fresh": network(rng), "donors": stacked([network(rng) for _ in range(DONORS)]), "kernels": kernels()}
    parts |= {key: changes[key] for key in ("fresh", "donors") if key in changes}
    if measure is not None:
        scores = pair_scores(measure, to_filters(parts["donors"], kernels()))
        larger = get_measure(measure).larger_is_more_alike
        side = rng.integers(0, 2, FILTERS)
        pairs = donor_pairs(DONORS)
        parts["most"] = unmatched(pairs[select_pairs(scores, larger)], side)
        parts["least"] = unmatched(pairs[select_pairs(scores, not larger)], side)

    def gradients(weights):
        batches = np.random.default_rng(seed + 1)
        for _ in range(3):
            yield [batches.normal(size=w.shape).astype(np.float32) for w in weights]

    return Ingredients(
        **parts
        | {
            "rng": np.random.default_rng(seed + 2),
            "measure": measure,
            "layers": lambda: [Layer(h.kernel, h.bias, h.units) for h in hidden()],
            "hidden": hidden,
            "channel_statistics": channel_statistics,
            "losses": losses,
            "gradients": gradients,
        }
        | changes
    )


def filters(weights):
    """Return the conv filters in the published order, [F, 3, 3]."""
    return np.concatenate(to_filters(weights, kernels()))
