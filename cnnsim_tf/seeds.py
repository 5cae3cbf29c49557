"""Every random number of a study comes from here."""

import hashlib

import numpy as np


def seed_sequence(seed: int, repeat: int, purpose: str) -> np.random.SeedSequence:
    """Return the seed of one purpose (a plain name) in one repeat (counted from 1).

    Independent of what else ran before, where and in which order. The purpose enters through a sha256, since
    Python's own hash() differs from process to process.
    """
    words = np.frombuffer(hashlib.sha256(purpose.encode()).digest()[:16], dtype="<u4")
    return np.random.SeedSequence(seed, spawn_key=(repeat, *map(int, words)))


def rng(seed: int, repeat: int, purpose: str) -> np.random.Generator:
    """Return the generator of one purpose in one repeat of the study with this seed."""
    return np.random.default_rng(seed_sequence(seed, repeat, purpose))


def integer_seed(seed: int, repeat: int, purpose: str) -> int:
    """Return a 32-bit seed for libraries that have generators of their own (Keras initialisers)."""
    return int(seed_sequence(seed, repeat, purpose).generate_state(1)[0])
