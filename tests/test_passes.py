import math

import pytest

from cnnsim_tf.passes import Passes, break_even, passes_to_reach


def reach(batches, donors=0, images=60_000, batch_size=64):
    return passes_to_reach(batches, batch_size, images, donor_passes=10_000 * 6, donors=donors)


def test_passes_are_batches_times_their_size_and_the_six_donors_of_the_published_study_add_360000():
    passes = reach(200, donors=6)
    assert passes == Passes(target=12_800, donors=360_000)
    assert passes.total == 372_800


def test_a_variant_without_donors_has_the_same_passes_with_and_without_them():
    assert reach(200).total == reach(200).target == 12_800


def test_the_last_short_batch_of_an_epoch_counts_the_images_that_it_has():
    assert reach(938).target == 60_000  # not 938 * 64 = 60,032
    assert reach(937).target == 937 * 64
    assert reach(2 * 938 + 1).target == 120_064


@pytest.mark.parametrize(("images", "batch_size"), [(60_000, 64), (100, 7), (64, 64), (5, 64)])
def test_passes_never_fall_with_more_batches_and_whole_epochs_are_whole_data_sets(images, batch_size):
    steps = math.ceil(images / batch_size)
    passes = [reach(b, images=images, batch_size=batch_size).target for b in range(3 * steps + 1)]
    assert passes == sorted(passes)
    assert passes[::steps] == [0, images, 2 * images, 3 * images]


def test_a_mean_number_of_batches_may_be_a_fraction():
    assert reach(100.5).target == 6432


def test_an_accuracy_that_is_not_reached_takes_an_unknown_number_of_passes():
    passes = reach(math.nan, donors=6)
    assert math.isnan(passes.target)
    assert math.isnan(passes.total)
    assert passes.donors == 360_000


def test_donors_are_paid_back_by_the_variants_that_share_them():
    # 400 batches without, 100 with: 300 * 64 = 19,200 passes saved each; 360,000 / 19,200 = 18.75.
    answer = break_even(reach(100, donors=6), reach(400))
    assert (answer.saved, answer.variants, answer.word) == (19_200, 19, "after 19 variants")


def test_one_donor_is_paid_back_sooner():
    assert break_even(reach(100, donors=1), reach(400)).word == "after 4 variants"  # 60,000 / 19,200 = 3.125


def test_an_exact_division_needs_no_variant_more():
    assert break_even(Passes(0, 60_000), Passes(60_000, 0)).word == "after 1 variant"
    assert break_even(Passes(0, 60_000), Passes(30_000, 0)).variants == 2


@pytest.mark.parametrize("seed", range(5))
def test_at_break_even_the_donors_are_paid_and_with_one_variant_fewer_they_are_not(seed):
    variant, baseline = Passes(1000 + 37 * seed, 360_000), Passes(20_000 + 999 * seed, 0)
    n = break_even(variant, baseline).variants
    assert n * variant.target + variant.donors <= n * baseline.target
    assert (n - 1) * variant.target + variant.donors > (n - 1) * baseline.target


@pytest.mark.parametrize("batches", [400, 500])
def test_donors_of_a_variant_that_saves_nothing_are_never_paid_back(batches):
    answer = break_even(reach(batches, donors=6), reach(400))
    assert math.isnan(answer.variants)
    assert answer.word == "never"
    assert answer.saved <= 0


def test_without_donors_there_is_nothing_to_pay_back():
    answer = break_even(reach(100), reach(400))
    assert (answer.saved, answer.variants, answer.word) == (19_200, 0, "nothing to pay back")


@pytest.mark.parametrize("pair", [(math.nan, 400), (100, math.nan)])
def test_break_even_is_unknown_where_one_of_the_two_does_not_reach_the_accuracy(pair):
    answer = break_even(reach(pair[0], donors=6), reach(pair[1]))
    assert math.isnan(answer.variants)
    assert answer.word.startswith("unknown")
