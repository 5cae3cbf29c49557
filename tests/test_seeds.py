import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cnnsim_tf.seeds import integer_seed, rng, seed_sequence

ROOT = Path(__file__).parents[1]
CASES = list(product((0, 1, 2**32 - 1), (1, 2, 100), ("subsets", "fresh weights", "donor 1 weights", "")))


def test_equal_arguments_give_equal_numbers():
    np.testing.assert_array_equal(rng(3, 2, "subsets").random(100), rng(3, 2, "subsets").random(100))
    assert integer_seed(3, 2, "subsets") == integer_seed(3, 2, "subsets")


def test_every_seed_repeat_and_purpose_has_numbers_of_its_own():
    assert len({rng(*case).bytes(16) for case in CASES}) == len(CASES)
    assert len({integer_seed(*case) for case in CASES}) == len(CASES)


def test_seed_and_repeat_cannot_stand_in_for_each_other():
    assert rng(1, 2, "x").bytes(16) != rng(2, 1, "x").bytes(16)


def test_what_ran_before_in_which_order_makes_no_difference():
    forward = [rng(*case).bytes(16) for case in CASES]
    np.random.seed(5)
    backward = [rng(*case).bytes(16) for case in reversed(CASES)]
    assert forward == backward[::-1]


def test_pythons_and_numpys_global_generators_are_left_alone():
    before = np.random.get_state()[1].copy()
    rng(0, 1, "subsets").random(10)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_numbers_are_equal_in_another_process(hash_seed):
    code = (
        "import json; from cnnsim_tf.seeds import *; "
        f"print(json.dumps([[rng(*c).bytes(16).hex(), integer_seed(*c)] for c in {CASES}]))"
    )
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True).stdout
    assert json.loads(printed) == [[rng(*c).bytes(16).hex(), integer_seed(*c)] for c in CASES]


def test_integer_seeds_have_32_bits_and_are_spread_evenly_over_repeats():
    seeds = np.array([integer_seed(0, repeat, "fresh weights") for repeat in range(1, 1001)])
    assert seeds.min() >= 0
    assert seeds.max() < 2**32
    assert len(set(seeds)) == 1000
    assert stats.kstest(seeds / 2**32, "uniform").pvalue > 0.001


@pytest.mark.parametrize("which", ["seed", "repeat", "purpose"])
def test_first_draws_of_neighbouring_seeds_repeats_and_purposes_are_uniform_and_uncorrelated(which):
    makers = {
        "seed": lambda i: rng(i, 1, "x"),
        "repeat": lambda i: rng(0, i + 1, "x"),
        "purpose": lambda i: rng(0, 1, f"donor {i}"),
    }
    draws = np.array([makers[which](i).random() for i in range(2000)])
    assert stats.kstest(draws, "uniform").pvalue > 0.001
    assert stats.pearsonr(draws[1:], draws[:-1]).pvalue > 0.001


def test_a_seed_sequence_is_what_generators_and_integer_seeds_come_from():
    sequence = seed_sequence(7, 3, "subsets")
    assert np.random.default_rng(sequence).random() == rng(7, 3, "subsets").random()
    assert integer_seed(7, 3, "subsets") == sequence.generate_state(1)[0]
