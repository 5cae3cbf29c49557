import re
from pathlib import Path

import pytest

from cnnsim_tf.report import published
from cnnsim_tf.schemes import expand_variants
from cnnsim_tf.study import Study

METHOD = (Path(__file__).parents[1] / "docs" / "method.md").read_text()


def test_the_published_variants_are_those_of_their_group_and_among_the_default_ones():
    group = expand_variants(["published"], Study().measures)
    assert tuple(published.ACCURACY) == tuple(published.KEPT) == group
    assert set(group) < set(Study().variants)


@pytest.mark.parametrize("variant", published.ACCURACY)
def test_mean_sd_and_maximum_can_belong_to_twenty_accuracies(variant):
    mean, sd, largest = published.ACCURACY[variant]
    n = 20  # repeats
    assert 0 < mean < largest <= 100
    # Bhatia and Davis (2000): the variance of values between 0 and a maximum is at most (max - mean)(mean - 0).
    assert sd**2 * (n - 1) / n <= (largest - mean) * mean
    # A maximum is at most (n - 1)/sqrt(n) sample deviations above the mean (Samuelson 1968).
    assert largest - mean <= sd * (n - 1) / n**0.5


@pytest.mark.parametrize("variant", published.ACCURACY)
def test_docs_method_says_the_same_accuracies_rounded(variant):
    found = re.search(rf"`?{variant}`?\s(\d+\.\d) ± (\d+\.\d)\b", METHOD)
    assert found is not None
    mean, sd, _ = published.ACCURACY[variant]
    assert found.groups() == (f"{mean:.1f}", f"{sd:.1f}")
