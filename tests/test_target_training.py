"""What the warm start step computes: initial weights, target data, training, tests, and what is looked at inside."""

import dataclasses
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from scheme_kit import preactivations
from small_study import (
    COMPUTING,
    DONORS,
    KERNELS,
    LAYERS,
    MEASURES,
    STUDY,
    SUBSET,
    TRAIN,
    VARIANTS,
    StoppedError,
    both_repeats,
    filters_of,
    network,
    only_draw_orders,
    part_of_mnist,
    the_context,
    with_study,
)

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.errors import ParameterError
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.seeds import integer_seed, rng
from cnnsim_tf.steps import noising
from cnnsim_tf.steps.noising import digest, noised_test_set
from cnnsim_tf.steps.step import Context, without_passing

pytestmark = pytest.mark.slow

target_training = COMPUTING["warmstart"]
TARGETS = {"clean": TRAIN, "noisy": TRAIN, "mixed": 2 * TRAIN}
OF_MEASURES = [(v, variant) for v, variant in enumerate(VARIANTS) if variant in MEASURES]


@pytest.fixture(scope="module")
def context():
    return the_context()


@pytest.fixture(scope="module")
def repeats():
    return both_repeats()[0]


def test_variants_share_fresh_biases_and_dense_layers_bit_for_bit(repeats):
    for repeat, results in enumerate(repeats, 1):
        fresh = fresh_weights("reference", 28, 10, integer_seed(0, repeat, "fresh weights"))
        for (name, weights), unchanged in zip(results["warmstart"].initial.items(), fresh, strict=True):
            for variant, w in zip(VARIANTS, weights, strict=True):
                if variant != "full_donor":
                    same = w.tobytes() == unchanged.tobytes()
                    assert same == (variant == "random_init" or name not in KERNELS)


def test_a_warm_starts_filters_are_those_of_the_chosen_donors(repeats):
    for results in repeats:
        donors = [filters_of(network(results["subset_training"].weights, d)) for d in range(DONORS)]
        for v, variant in OF_MEASURES:
            chosen = results["similarity"].donors[MEASURES.index(variant)]
            for f, array in enumerate(filters_of(network(results["warmstart"].initial, v))):
                np.testing.assert_array_equal(array, donors[chosen[f]][f])


# --- target data -----------------------------------------------------------------------------------------------------


@cache
def what_is_trained(target, repeat):
    """Return the images, labels, orders and settings that training is given."""
    given, results = {}, both_repeats()[0][repeat - 1]

    def train(cnn, weights, images, labels, orders, **settings):
        given.update(settings, weights=weights, images=images, labels=labels)
        given["orders"] = [np.array(orders(epoch)) for epoch in range(2)]
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(target_training, "train", train)
        target_training.compute(with_study(target=target), repeat, dict(results), lambda images: None)
    return given


@pytest.mark.parametrize("target", TARGETS)
def test_variants_train_on_the_target_images_with_their_labels(target, context, repeats):
    given = what_is_trained(target, 1)
    (images,), (labels,), data = given["images"], given["labels"], context.dataset
    assert images.shape == (TARGETS[target], 28, 28)
    assert images.dtype == (np.uint8 if target == "clean" else np.float32)  # uint8 is the dataset's own, not a copy
    assert np.shares_memory(images, data.x_train) == (target == "clean")
    if target != "noisy":
        assert to_unit(images[:TRAIN]).tobytes() == to_unit(data.x_train).tobytes()
        np.testing.assert_array_equal(labels[:TRAIN], data.y_train)
    if target != "clean":
        recorded = repeats[0]["noising"]
        for d in range(DONORS):
            part = slice(TARGETS[target] - TRAIN + d * SUBSET, TARGETS[target] - TRAIN + (d + 1) * SUBSET)
            assert digest(images[part]) == recorded.digests[d]
            np.testing.assert_array_equal(labels[part], data.y_train[recorded.subsets[d]])


@pytest.mark.parametrize("target", TARGETS)
def test_all_variants_see_the_same_batches_shuffled_anew_every_epoch_and_repeat(target):
    seen = [o for r in (1, 2) for o in what_is_trained(target, r)["orders"]]
    for order in seen:
        assert order.shape == (len(VARIANTS), TARGETS[target])
        assert (order == order[0]).all()
        assert sorted(order[0]) == list(range(TARGETS[target]))
    assert len({order[0].tobytes() for order in seen}) == 4


@pytest.mark.parametrize("target", TARGETS)
def test_training_takes_the_target_epochs_and_is_tested_on_clean_data(target, context, repeats):
    given = what_is_trained(target, 1)
    assert (given["epochs"], given["batch_size"]) == (STUDY.target_epochs, STUDY.batch_size)
    assert given["points"][-1] == -(-TARGETS[target] // STUDY.batch_size)
    np.testing.assert_array_equal(given["test"][0], context.test_images)
    np.testing.assert_array_equal(given["test"][1], context.dataset.y_test)
    for one, other in zip(given["weights"], repeats[0]["warmstart"].initial.values(), strict=True):
        assert one.tobytes() == other.tobytes()  # what a variant starts from does not depend on its target


@pytest.mark.parametrize(("target", "expected"), [("clean", 605), ("noisy", 600), ("mixed", 1205)])
def test_the_passes_of_a_target_count_the_images_that_are_left_out_of_the_subsets_once(target, expected):
    context = Context(dataclasses.replace(STUDY, target=target), part_of_mnist(605))
    noised = noising.compute(context, 1, {}, lambda images: None)
    _, labels = target_training._target(context, 1, noised)
    assert target_training.target_passes(context) == len(labels) == expected


@pytest.mark.parametrize("target", TARGETS)
def test_fewer_target_images_are_drawn_anew_in_each_repeat_and_are_among_more_of_them(target, context, repeats):
    def seen(count, repeat):
        few = with_study(target=target, target_images=count)
        assert target_training.target_passes(few) == count
        images, labels = target_training._target(few, repeat, repeats[repeat - 1]["noising"])
        assert len(images) == len(labels) == count
        return {(to_unit(image).tobytes(), label) for image, label in zip(images, labels, strict=True)}

    every = seen(TARGETS[target], 1)
    assert seen(10, 1) < seen(60, 1) < every
    assert seen(60, 1) != seen(60, 2)
    order = rng(0, 1, "target images").permutation(TARGETS[target])
    images, labels = target_training._target(with_study(target=target), 1, repeats[0]["noising"])
    few = with_study(target=target, target_images=60)
    drawn = np.sort(order[:60])  # as they stand among all
    for one, other in zip(target_training._target(few, 1, repeats[0]["noising"]), (images, labels), strict=True):
        np.testing.assert_array_equal(one, other[drawn])
    another = with_study(target=target, target_images=60, seed=1)
    if target == "clean":
        assert not np.array_equal(target_training._target(another, 1, None)[1], labels[drawn])
    if target == "mixed":
        clean = {to_unit(image).tobytes() for image in context.dataset.x_train}
        assert 0 < sum(image in clean for image, _ in seen(60, 1)) < 60


def test_variants_train_on_few_target_images_for_as_many_epochs_as_wanted_and_schemes_see_no_others(repeats):
    context = with_study(target_images=10, target_epochs=3, variants=("random_init", "centred_fresh", "dash"))
    told = []
    result = target_training.compute(context, 1, dict(repeats[0]), told.append)
    assert sum(told) == target_training.passes(context) == 3 * 3 * 10
    assert result.points[-1] == 3 * -(-10 // STUDY.batch_size)
    drawn = np.sort(rng(0, 1, "target images").permutation(TRAIN)[:10])
    means = [
        x.mean((0, 1, 2) if x.ndim == 4 else 0)
        for x in preactivations(network(result.initial, 1), to_unit(context.dataset.x_train[drawn]))[:3]
    ]
    assert max(np.abs(m).max() for m in means) < 1e-5


def test_as_many_target_images_as_there_are_give_what_all_give(repeats):
    given = with_study(target_images=TRAIN), with_study()
    one, other = (target_training._target(c, 1, repeats[0]["noising"]) for c in given)
    assert one[0] is other[0] and one[1] is other[1]


@pytest.mark.parametrize(("target", "size"), [("clean", "605"), ("noisy", "600"), ("mixed", "1,205")])
def test_more_target_images_than_there_are_are_refused_in_a_sentence(target, size):
    context = Context(dataclasses.replace(STUDY, target=target, target_images=1206), part_of_mnist(605))
    with pytest.raises(
        ParameterError, match=rf"target_images is 1,206, but .*{target}\) have {size} images: give fewer"
    ):
        target_training.check(context)


@pytest.mark.parametrize("target", ["noisy", "mixed"])
def test_noisy_targets_report_the_passes_that_they_announce_and_end_elsewhere(target, repeats):
    context = with_study(target=target, variants=("random_init", "cosine"), target_epochs=2)
    told = []
    result = target_training.compute(context, 1, dict(repeats[0]), told.append)
    assert sum(told) == target_training.passes(context) == 2 * 2 * TARGETS[target]
    clean = repeats[0]["warmstart"]
    for v, variant in enumerate(context.study.variants):
        w = VARIANTS.index(variant)
        assert result.start_accuracy[v] == clean.start_accuracy[w]
        assert result.final["conv1/kernel"][v].tobytes() != clean.final["conv1/kernel"][w].tobytes()


def test_schemes_look_at_the_first_500_images_of_the_first_target_epoch(context, repeats):
    seen = {}

    def make_weights(scheme, ingredients):
        seen["losses"], seen["means"] = ingredients.losses(ingredients.donors), ingredients.channel_statistics
        seen["batches"] = sum(1 for _ in ingredients.gradients([w[0] for w in ingredients.donors]))
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(target_training, "make_weights", make_weights)
        target_training.compute(with_study(), 1, dict(repeats[0]), lambda images: None)
    some = rng(0, 1, "batches of target epoch 1").permutation(TRAIN)[:500]
    assert seen["batches"] == -(-TRAIN // STUDY.batch_size)  # gradients are taken of all images
    donors = repeats[0]["subset_training"].weights
    images, labels = to_unit(context.dataset.x_train[some]), context.dataset.y_train[some]
    wanted = [loss_and_accuracy(network(donors, d), images, labels)[0] for d in range(DONORS)]
    np.testing.assert_allclose(seen["losses"], wanted, rtol=1e-4)
    first = preactivations(network(donors, 0), images)[0]
    (mean, _), *_ = seen["means"]([w[None] for w in network(donors, 0)])
    np.testing.assert_allclose(mean[0], first.mean((0, 1, 2), np.float64), rtol=1e-4, atol=1e-5)


# --- independent variants --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variants", [("random_init",), ("frobenius", "random_init")], ids=["others left out", "fewer and reordered"]
)
def test_a_variant_is_bit_for_bit_the_same_without_the_others_and_in_another_order(repeats, variants):
    full = repeats[0]["warmstart"]
    part = target_training.compute(with_study(variants=variants), 1, repeats[0], lambda images: None)
    for v, variant in enumerate(variants):
        w = VARIANTS.index(variant)
        for name in part.initial:
            assert part.initial[name][v].tobytes() == full.initial[name][w].tobytes()
            assert part.final[name][v].tobytes() == full.final[name][w].tobytes()
        for curve in ("epoch_loss", "train_loss", "test_loss", "test_accuracy", "start_loss", "start_accuracy"):
            assert getattr(part, curve)[v].tobytes() == getattr(full, curve)[w].tobytes()
        for curve in ("noise_loss", "noise_accuracy", "gradient_norms"):
            assert getattr(part, curve)[v].tobytes() == getattr(full, curve)[w].tobytes()
        for curve in ("dead", "activation_mean", "activation_sd"):
            assert getattr(part, curve)[:, v].tobytes() == getattr(full, curve)[:, w].tobytes()


@pytest.mark.parametrize(
    ("variant", "count"), [("random_init", 0), ("full_donor", 1), ("random_donor", 6), ("cosine", 6)]
)
def test_a_variant_takes_weights_from_the_donors_of_its_scheme(variant, count):
    context = with_study(variants=("pearson", variant))
    assert target_training.donors_of(context, 1) == count
    assert target_training.donors_of(context, 0) == DONORS


# --- accuracies and losses -------------------------------------------------------------------------------------------


def loss_and_accuracy(weights, images, labels):
    """Return mean loss and accuracy in percent of one network, by Keras."""
    model = build("reference", 28, 10)
    model.set_weights(weights)
    logits = model(images[..., None]).numpy()
    loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return float(np.mean(loss)), 100 * (logits.argmax(1) == labels).mean()


@pytest.mark.parametrize("when", ["start", "end"])
def test_accuracy_and_loss_are_those_of_the_weights_on_clean_test_data(when, context, repeats):
    result = repeats[0]["warmstart"]
    weights = result.initial if when == "start" else result.final
    accuracies = result.start_accuracy if when == "start" else result.test_accuracy[:, -1]
    losses = result.start_loss if when == "start" else result.test_loss[:, -1]
    for v in range(len(VARIANTS)):
        loss, accuracy = loss_and_accuracy(network(weights, v), context.test_images, context.dataset.y_test)
        assert accuracies[v] == pytest.approx(accuracy, abs=0.51)  # one near-tie
        assert losses[v] == pytest.approx(loss, rel=1e-4)


def test_variants_are_tested_on_every_noise_at_the_end(context, repeats):
    result = repeats[1]["warmstart"]
    for d in range(DONORS):
        images = noised_test_set(context, 2, d)
        for v in (0, 1, len(VARIANTS) - 1):
            loss, accuracy = loss_and_accuracy(network(result.final, v), images, context.dataset.y_test)
            assert result.noise_accuracy[v, d] == pytest.approx(accuracy, abs=0.51)
            assert result.noise_loss[v, d] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(("test", "target", "kept"), [(100, "clean", 6), (101, "clean", 0), (100, "noisy", 0)])
def test_noised_test_sets_are_handed_on_where_they_take_no_more_memory_than_noised_subsets(test, target, kept, repeats):
    context = Context(dataclasses.replace(STUDY, target=target), part_of_mnist(TRAIN, test))
    donors, made = COMPUTING["subset_training"], [noised_test_set(context, 1, d) for d in range(DONORS)]
    inputs = dict(repeats[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(donors, "train", only_draw_orders)
        inputs["subset_training"] = donors.compute(context, 1, dict(inputs), lambda images: None)
    inputs["similarity"] = COMPUTING["similarity"].compute(context, 1, dict(inputs), lambda images: None)
    handed_on = inputs["similarity"].noised_tests
    assert [images.tobytes() for images in handed_on] == [images.tobytes() for images in made[:kept]]
    if kept:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target_training, "train", only_draw_orders)
            made_anew = target_training.compute(
                context, 1, {n: without_passing(r) for n, r in inputs.items()}, lambda images: None
            )
            patch.setattr(donors, "noised_test_set", lambda *given: pytest.fail("one is made again"))
            found = target_training.compute(context, 1, dict(inputs), lambda images: None)
        assert found.noise_loss.tobytes() == made_anew.noise_loss.tobytes()
        assert found.noise_accuracy.tobytes() == made_anew.noise_accuracy.tobytes()


def test_training_changes_every_variants_weights_and_beats_chance(repeats):
    result = repeats[0]["warmstart"]
    for before, after in zip(result.initial.values(), result.final.values(), strict=True):
        assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert (result.epoch_loss < np.log(10)).all()
    assert (result.test_accuracy > 25).all()


# --- a look inside ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0, 1], ids=["start", "end"])
def test_dead_units_and_activations_are_those_of_clean_test_images_before_and_after_training(when, context, repeats):
    result = repeats[0]["warmstart"]
    weights = (result.initial, result.final)[when]
    for v in range(len(VARIANTS)):
        values = preactivations(network(weights, v), context.test_images)
        outputs = [*(np.maximum(x, 0) for x in values[:3]), values[3]]
        for layer in range(LAYERS):
            given = outputs[layer].reshape(-1, outputs[layer].shape[-1]).astype(float)
            dead = sum(not given[:, unit].any() for unit in range(given.shape[1]))
            assert result.dead[when, v, layer] == dead
            assert result.activation_mean[when, v, layer] == pytest.approx(given.mean(), rel=1e-3, abs=1e-5)
            assert result.activation_sd[when, v, layer] == pytest.approx(given.std(), rel=1e-3)


def test_the_first_gradients_are_those_of_the_first_batch_at_the_initial_weights(context, repeats):
    result, data = repeats[0]["warmstart"], context.dataset
    batch = rng(0, 1, "batches of target epoch 1").permutation(TRAIN)[: STUDY.batch_size]
    model = build("reference", 28, 10)
    for v in range(len(VARIANTS)):
        model.set_weights(network(result.initial, v))
        with tf.GradientTape() as tape:
            logits = model(to_unit(data.x_train[batch])[..., None])
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(data.y_train[batch], logits, from_logits=True)
            )
        gradients = [g.numpy().astype(float) for g in tape.gradient(loss, model.trainable_variables)]
        expected = [np.sqrt(sum((g**2).sum() for g in gradients[2 * i : 2 * i + 2])) for i in range(LAYERS)]
        np.testing.assert_allclose(result.gradient_norms[v, 0], expected, rtol=1e-3)
    assert np.isfinite(result.gradient_norms).all()
    assert (np.ptp(result.gradient_norms.sum(-1), axis=1) > 0).all()  # the ten steps are not one
