import dataclasses
import io
import re
from collections import Counter
from itertools import combinations

import keras
import numpy as np
import pytest

from cnnsim_tf import datasets
from cnnsim_tf.cnn import build, fresh_weights
from cnnsim_tf.datasets import to_unit
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.measures import filter_scores
from cnnsim_tf.seeds import integer_seed
from cnnsim_tf.statistics import describe, paired_difference
from cnnsim_tf.steps import noising, similarity, subset_training, warmstart
from cnnsim_tf.steps.noising import digest, noised_subset, noised_test_set, verified_subset
from cnnsim_tf.steps.step import Context
from cnnsim_tf.storage import to_npz, without_passing
from cnnsim_tf.study import Study
from cnnsim_tf.training import Trained

MODULES = {m.STEP.name: m for m in (noising, subset_training, similarity, warmstart)}
STEPS = list(MODULES)
STUDY = Study(repeats=2, epochs=1, batch_size=32, learning_rate=0.01)  # trains visibly in few batches
VARIANTS, MEASURES = STUDY.variants, STUDY.measures
TRAIN, TEST, DONORS, SUBSET = 600, 200, 6, 100
WEIGHTS = [(3, 3, 1, 2), (2,), (3, 3, 2, 4), (4,), (196, 16), (16,), (16, 10), (10,)]
KERNELS = (0, 2)  # positions of the conv kernels among them
PAIRS = list(combinations(range(DONORS), 2))


def computed(context, repeat, passed=None, steps=STEPS):
    """Return the results of one repeat's steps; `passed` collects the image passes that each reports."""
    results = {}
    for name in steps:
        told = []
        results[name] = without_passing(MODULES[name].compute(context, repeat, dict(results), told.append))
        if passed is not None:
            passed[name] = sum(told)
    return results


def bytes_of(results):
    return {name: to_npz(result) for name, result in results.items()}


def filters_of(weights):
    """Return the filters of one CNN in the published order, by plain loops."""
    kernels = [weights[position] for position in KERNELS]
    return [k[:, :, i, o] for k in kernels for o in range(k.shape[3]) for i in range(k.shape[2])]


@pytest.fixture(scope="module")
def data():
    """Return the first 600 and 200 images of MNIST as a dataset of their own."""
    mnist = datasets.load("mnist")
    arrays = {name: getattr(mnist, name)[: TRAIN if "train" in name else TEST] for name in datasets.ARRAY_NAMES}
    return datasets.validate("small", arrays)


@pytest.fixture(scope="module")
def context(data):
    return Context(STUDY, data)


@pytest.fixture(scope="module")
def passes():
    return {}


@pytest.fixture(scope="module")
def repeats(context, passes):
    """Return the results of both repeats, computed in order."""
    return [computed(context, repeat, passes) for repeat in (1, 2)]


@pytest.fixture(scope="module")
def summaries(context, repeats):
    by_step = {name: [r[name] for r in repeats] for name in STEPS}
    return {name: MODULES[name].summarise(context, by_step[name], by_step) for name in STEPS}


class StoppedError(Exception):
    """Raised in place of training."""


def only_draw_orders(cnn, weights, images, labels, orders, *, epochs, **settings):
    """Return the weights that training starts from as its result."""
    for epoch in range(epochs):
        orders(epoch)
    return Trained(list(weights), *[np.zeros((len(weights[0]), 1))] * 2, np.zeros(1), *[np.zeros((1, 1))] * 3)


def with_study(context, **changes):
    return Context(dataclasses.replace(context.study, **changes), context.dataset)


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_a_noising_result_has_the_contracts_shapes(repeats):
    result = repeats[0]["noising"]
    assert (result.subsets.shape, result.subsets.dtype) == ((DONORS, SUBSET), np.int32)
    assert all(re.fullmatch("[0-9a-f]{64}", d) for d in result.digests)
    assert result.statistics.shape == (DONORS, 6)
    assert result.clean.shape == result.noised.shape == (DONORS, 6, 28, 28)
    assert result.clean.dtype == result.noised.dtype == np.float32


def test_a_subset_training_result_has_the_contracts_shapes(repeats):
    result = repeats[0]["subset_training"]
    assert [w.shape for w in result.weights] == [(DONORS, *shape) for shape in WEIGHTS]
    assert result.epoch_loss.shape == result.epoch_accuracy.shape == (DONORS, 1)
    assert result.test_loss.shape == result.test_accuracy.shape == (DONORS, 1 + DONORS)
    assert {w.dtype for w in result.weights} == {np.dtype(np.float32)}
    curves = [result.epoch_loss, result.epoch_accuracy, result.test_loss, result.test_accuracy]
    assert {c.dtype for c in curves} == {np.dtype(np.float64)}  # so that percentages that are equal are equal numbers


def test_a_similarity_result_has_the_contracts_shapes(repeats):
    result = repeats[0]["similarity"]
    assert (result.scores.shape, result.scores.dtype) == ((3, 10, 15), np.float32)
    assert (result.pairs.shape, result.pairs.dtype) == ((3, 10), np.int64)
    assert (result.donors.shape, result.donors.dtype) == ((3, 10), np.int64)


def test_a_warmstart_result_has_the_contracts_shapes(repeats):
    result = repeats[0]["warmstart"]
    for weights in (result.initial, result.final):
        assert [w.shape for w in weights] == [(4, *shape) for shape in WEIGHTS]
        assert {w.dtype for w in weights} == {np.dtype(np.float32)}
    assert result.points.tolist() == [19]  # 600 images in batches of 32
    assert result.epoch_loss.shape == (4, 1)
    assert result.train_loss.shape == result.test_loss.shape == result.test_accuracy.shape == (4, 1)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_reports_as_many_image_passes_as_it_announces(name, context, repeats, passes):
    assert passes[name] == MODULES[name].STEP.passes(context)


# --- noising ---------------------------------------------------------------------------------------------------------


def test_subsets_of_a_repeat_share_no_image_and_use_them_all(repeats):
    for results in repeats:
        assert sorted(results["noising"].subsets.ravel()) == list(range(TRAIN))


def test_every_repeat_has_its_own_shuffle_and_noise(repeats):
    first, second = (r["noising"] for r in repeats)
    assert not np.array_equal(first.subsets, second.subsets)
    assert not set(first.digests) & set(second.digests)


def test_examples_are_the_first_images_of_each_subset_before_and_after_the_noise(context, repeats):
    result = repeats[0]["noising"]
    for d, indices in enumerate(result.subsets):
        np.testing.assert_array_equal(result.clean[d], to_unit(context.dataset.x_train[indices[:6]]))
        np.testing.assert_array_equal(result.noised[d], noised_subset(context, 1, d, indices)[:6])


def test_statistics_are_those_of_the_noised_images(context, repeats):
    result = repeats[0]["noising"]
    for d, indices in enumerate(result.subsets):
        noised, clean = noised_subset(context, 1, d, indices), to_unit(context.dataset.x_train[indices])
        changed = 100 * np.mean([not np.array_equal(a, b) for a, b in zip(noised, clean, strict=True)])
        expected = [noised.astype(float).mean(), noised.astype(float).std(), noised.min(), noised.max()]
        expected += [np.abs(noised.astype(float) - clean).mean(), changed]
        np.testing.assert_allclose(result.statistics[d], expected, rtol=1e-4)


def test_recorded_digests_are_those_of_the_subsets_derived_anew(context, repeats):
    result = repeats[1]["noising"]
    for d in range(DONORS):
        assert digest(verified_subset(context, 2, d, result)) == result.digests[d]


def test_a_subset_that_differs_from_its_record_stops_the_training_of_donors(context, repeats):
    changed = dataclasses.replace(repeats[0]["noising"], digests=repeats[0]["noising"].digests.copy())
    changed.digests[4] = "0" * 64
    with pytest.raises(StudyError, match=r"subset 5 \(elastic\) of repeat 1 differs .* fresh=true$") as caught:
        subset_training.compute(context, 1, {"noising": changed}, lambda images: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{"seed": 1}, {"level": 0.5}])
def test_another_seed_or_level_is_noticed_as_another_subset(context, repeats, other):
    with pytest.raises(StudyError, match="differs from the one that the noising run recorded"):
        verified_subset(with_study(context, **other), 1, 2, repeats[0]["noising"])


def test_a_digest_changes_with_a_single_bit():
    images = np.zeros((2, 8, 8), np.float32)
    before = digest(images)
    images[1, 7, 7] = -0.0
    assert digest(images) != before


def test_at_level_0_the_noised_subsets_and_test_sets_are_clean(context):
    clean_context = with_study(context, level=0)
    result = noising.compute(clean_context, 1, {}, lambda images: None)
    for d, indices in enumerate(result.subsets):
        assert result.digests[d] == digest(to_unit(context.dataset.x_train[indices]))
        assert noised_test_set(clean_context, 1, d).tobytes() == context.test_images.tobytes()
    assert not result.statistics[:, 4:].any()  # mean change and changed images
    assert result.clean.tobytes() == result.noised.tobytes()


def test_the_level_changes_the_noise_but_not_the_shuffle(context, repeats):
    weak = noising.compute(with_study(context, level=0.5), 1, {}, lambda images: None)
    np.testing.assert_array_equal(weak.subsets, repeats[0]["noising"].subsets)
    assert not set(weak.digests) & set(repeats[0]["noising"].digests)


# --- subset training -------------------------------------------------------------------------------------------------


def test_donors_differ_from_each_other_and_from_their_fresh_weights(repeats):
    weights = repeats[0]["subset_training"].weights
    for position, w in enumerate(weights):
        assert len({donor.tobytes() for donor in w}) == DONORS
        fresh = fresh_weights("reference", 28, 10, integer_seed(0, 1, "donor 1 weights"))[position]
        assert not np.array_equal(w[0], fresh)


def test_donors_are_tested_on_clean_data_first_and_then_on_every_noise(context, repeats):
    result = repeats[1]["subset_training"]
    tests = [context.test_images, *(noised_test_set(context, 2, d) for d in range(DONORS))]
    model = build("reference", 28, 10)
    for donor in (0, 5):
        model.set_weights([w[donor] for w in result.weights])
        for column, images in enumerate(tests):
            logits = model(images[..., None]).numpy()
            accuracy = 100 * (logits.argmax(1) == context.dataset.y_test).mean()
            loss = keras.losses.sparse_categorical_crossentropy(context.dataset.y_test, logits, from_logits=True)
            assert result.test_accuracy[donor, column] == pytest.approx(accuracy, abs=0.51)  # one near-tie
            assert result.test_loss[donor, column] == pytest.approx(float(np.mean(loss)), rel=1e-4)


def test_no_two_uses_of_chance_in_a_repeat_share_a_purpose(context, repeats, monkeypatch):
    used = []

    def recorded(function):
        def record(seed, repeat, purpose):
            assert (seed, repeat) == (0, 1)
            used.append(purpose)
            return function(seed, repeat, purpose)

        return record

    for module in MODULES.values():
        for name in {"rng", "integer_seed"} & set(vars(module)):
            monkeypatch.setattr(module, name, recorded(getattr(module, name)))
        if hasattr(module, "train"):
            monkeypatch.setattr(module, "train", only_draw_orders)
    longer = with_study(context, epochs=2, target_epochs=2)
    by_step = {}
    for name, module in MODULES.items():
        used.clear()
        module.compute(longer, 1, dict(repeats[0]), lambda images: None)
        by_step[name] = Counter(used)
    assert sum(by_step["noising"].values()) == len(by_step["noising"]) == 1 + DONORS
    donors = by_step["subset_training"]
    assert sum(donors.values()) == len(donors) == DONORS * (1 + 1 + 2 + 1)  # noise, weights, two epochs, test set
    # Shared on purpose: by all measures, by all variants.
    assert by_step["similarity"] == {"donor of the pair": len(MEASURES)}
    variants = by_step["warmstart"]
    assert variants.pop("scheme") == len(VARIANTS)
    assert sum(variants.values()) == len(variants) == 1 + 2  # fresh weights, two epochs
    noises = set(by_step["noising"]) - {"subsets"}
    assert noises <= set(donors)  # the same noise, derived anew
    everything = [*by_step["noising"], *(set(donors) - noises), "donor of the pair", "scheme", *variants]
    assert len(everything) == len(set(everything))


# --- similarity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", range(3), ids=MEASURES)
def test_scores_and_choices_are_those_of_a_loop_over_filters_and_pairs(m, repeats):
    weights, result = repeats[0]["subset_training"].weights, repeats[0]["similarity"]
    donors = [filters_of([w[d] for w in weights]) for d in range(DONORS)]
    for f in range(10):
        scores = [float(filter_scores(MEASURES[m], donors[i][f], donors[j][f])) for i, j in PAIRS]
        np.testing.assert_allclose(result.scores[m, f], scores, rtol=1e-5, atol=1e-7)
        best = min(result.scores[m, f]) if MEASURES[m] == "frobenius" else max(result.scores[m, f])
        assert result.scores[m, f, result.pairs[m, f]] == best
        assert result.donors[m, f] in PAIRS[result.pairs[m, f]]


def test_measures_that_choose_the_same_pair_take_the_same_donor(repeats):
    for results in repeats:
        pairs, donors = results["similarity"].pairs, results["similarity"].donors
        for one, other in combinations(range(3), 2):
            same = pairs[one] == pairs[other]
            np.testing.assert_array_equal(donors[one][same], donors[other][same])


def test_the_table_of_similarity_per_filter_is_that_of_a_loop(context, repeats, summaries):
    table = summaries["similarity"].tables["similarity_per_filter"]
    scores = np.stack([r["similarity"].scores for r in repeats]).astype(float)
    row = 0
    for m, measure in enumerate(MEASURES):
        for f in [*range(10), None]:
            values = [
                scores[r, m, g, p] for r in range(2) for g in (range(10) if f is None else [f]) for p in range(15)
            ]
            assert table["measure"][row] == measure
            assert table["filter"][row] == ("all filters" if f is None else context.filter_names[f])
            assert table["mean"][row] == pytest.approx(np.mean(values))
            assert table["sd"][row] == pytest.approx(np.std(values, ddof=1))
            assert table["most alike"][row] == (min(values) if measure == "frobenius" else max(values))
            row += 1
    assert all(len(column) == row for column in table.values())


def test_the_table_of_selected_pairs_is_that_of_a_loop(repeats, summaries):
    table = summaries["similarity"].tables["selected_pairs"]
    chosen = [[p for r in repeats for p in r["similarity"].pairs[m]] for m in range(3)]
    row = 0
    for m, measure in enumerate(MEASURES):
        for p, (i, j) in enumerate(PAIRS):
            assert table["measure"][row] == measure
            assert table["pair"][row] == f"{i + 1}-{j + 1}"
            assert table["donors"][row] == f"{STUDY.noises[i]}, {STUDY.noises[j]}"
            assert table["times chosen"][row] == chosen[m].count(p)
            assert table["share %"][row] == pytest.approx(100 * chosen[m].count(p) / 20)
            row += 1
    assert all(len(column) == row for column in table.values())


def test_the_table_of_extreme_pairs_points_to_the_extreme_scores(context, repeats, summaries):
    table = summaries["similarity"].tables["extreme_pairs"]
    rows = list(zip(*table.values(), strict=True))
    assert [row[:2] for row in rows] == [(m, w) for m in MEASURES for w in ("most alike", "least alike")]
    for measure, which, score, repeat, name, pair in rows:
        m = MEASURES.index(measure)
        scores = np.stack([r["similarity"].scores[m] for r in repeats])
        assert score == (scores.max() if (which == "most alike") != (measure == "frobenius") else scores.min())
        i, j = (int(donor) - 1 for donor in pair.split("-"))
        assert scores[repeat - 1, context.filter_names.index(name), PAIRS.index((i, j))] == np.float32(score)


# --- warm start ------------------------------------------------------------------------------------------------------


def test_variants_share_fresh_biases_and_dense_layers_bit_for_bit(repeats):
    for repeat, results in enumerate(repeats, 1):
        fresh = fresh_weights("reference", 28, 10, integer_seed(0, repeat, "fresh weights"))
        for position, weights in enumerate(results["warmstart"].initial):
            for variant, w in zip(VARIANTS, weights, strict=True):
                same = w.tobytes() == fresh[position].tobytes()
                assert same == (variant == "random_init" or position not in KERNELS)


def test_a_warm_starts_filters_are_those_of_the_chosen_donors(repeats):
    for results in repeats:
        donors = [filters_of([w[d] for w in results["subset_training"].weights]) for d in range(DONORS)]
        for v, variant in list(enumerate(VARIANTS))[1:]:
            chosen = results["similarity"].donors[MEASURES.index(variant)]
            for f, array in enumerate(filters_of([w[v] for w in results["warmstart"].initial])):
                np.testing.assert_array_equal(array, donors[chosen[f]][f])


def test_all_variants_see_the_same_batches_shuffled_anew_every_epoch_and_repeat(context, repeats, monkeypatch):
    seen = []

    def train(cnn, weights, images, labels, orders, **settings):
        assert len(images) == len(labels) == 1
        seen.extend(np.array(orders(epoch)) for epoch in range(2))
        raise StoppedError

    monkeypatch.setattr(warmstart, "train", train)
    for repeat in (1, 2):
        with pytest.raises(StoppedError):
            warmstart.compute(context, repeat, repeats[repeat - 1], lambda images: None)
    for order in seen:
        assert order.shape == (len(VARIANTS), TRAIN)
        assert (order == order[0]).all()
        assert sorted(order[0]) == list(range(TRAIN))
    assert len({order[0].tobytes() for order in seen}) == 4


@pytest.mark.parametrize(
    "variants", [("random_init",), ("frobenius", "random_init")], ids=["others left out", "fewer and reordered"]
)
def test_a_variant_is_bit_for_bit_the_same_without_the_others_and_in_another_order(context, repeats, variants):
    full = repeats[0]["warmstart"]
    part = warmstart.compute(with_study(context, variants=variants), 1, repeats[0], lambda images: None)
    for v, variant in enumerate(variants):
        w = VARIANTS.index(variant)
        for one, other in zip([*part.initial, *part.final], [*full.initial, *full.final], strict=True):
            assert one[v].tobytes() == other[w].tobytes()
        for curve in ("epoch_loss", "train_loss", "test_loss", "test_accuracy"):
            assert getattr(part, curve)[v].tobytes() == getattr(full, curve)[w].tobytes()


def test_final_accuracy_and_loss_are_those_of_the_final_weights_on_clean_test_data(context, repeats):
    result = repeats[0]["warmstart"]
    model = build("reference", 28, 10)
    for v in range(len(VARIANTS)):
        model.set_weights([w[v] for w in result.final])
        logits = model(context.test_images[..., None]).numpy()
        loss = keras.losses.sparse_categorical_crossentropy(context.dataset.y_test, logits, from_logits=True)
        accuracy = 100 * (logits.argmax(1) == context.dataset.y_test).mean()
        assert result.test_accuracy[v, -1] == pytest.approx(accuracy, abs=0.51)  # one near-tie
        assert result.test_loss[v, -1] == pytest.approx(float(np.mean(loss)), rel=1e-4)


def test_training_changes_every_variants_weights_and_beats_chance(repeats):
    result = repeats[0]["warmstart"]
    for before, after in zip(result.initial, result.final, strict=True):
        assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert (result.epoch_loss < np.log(10)).all()
    assert (result.test_accuracy > 25).all()


def test_a_variant_that_does_not_exist_is_refused_before_anything_is_trained(context, repeats):
    with pytest.raises(ParameterError, match="unknown variant 'cosin'"):
        warmstart.compute(with_study(context, variants=("cosin",)), 1, repeats[0], lambda images: None)


def test_kept_similarity_compares_each_filter_with_itself_before_training(context, repeats):
    kept = warmstart.kept_similarity(context, [r["warmstart"] for r in repeats])
    assert kept.shape == (3, 4, 2, 10)
    for r, results in enumerate(repeats):
        for v in range(4):
            before, after = (
                filters_of([w[v] for w in weights])
                for weights in (results["warmstart"].initial, results["warmstart"].final)
            )
            for m, measure in enumerate(MEASURES):
                expected = [filter_scores(measure, a, b) for a, b in zip(before, after, strict=True)]
                np.testing.assert_allclose(kept[m, v, r], expected, rtol=1e-5, atol=1e-7)


def test_the_table_of_variants_follows_from_the_final_accuracies_and_losses(repeats, summaries):
    table = summaries["warmstart"].tables["variants"]
    accuracy = np.array([r["warmstart"].test_accuracy[:, -1] for r in repeats], float).T
    loss = np.array([r["warmstart"].epoch_loss[:, -1] for r in repeats], float).T
    assert table["variant"] == list(VARIANTS)
    for v in range(4):
        a, b = describe(accuracy[v]), describe(loss[v])
        assert (table["accuracy mean %"][v], table["accuracy sd"][v]) == pytest.approx((a.mean, a.sd))
        assert (table["accuracy min %"][v], table["accuracy max %"][v]) == (a.min, a.max)
        assert (table["train loss mean"][v], table["train loss sd"][v]) == pytest.approx((b.mean, b.sd), rel=1e-5)
        if v == 0:
            assert table["difference"][v] is None
            continue
        d = paired_difference(accuracy[v], accuracy[0])
        found = [table[c][v] for c in ("difference", "CI low", "CI high", "t test p", "Wilcoxon p")]
        assert found == pytest.approx([d.mean, d.ci_low, d.ci_high, d.t_p, d.wilcoxon_p])


def test_the_table_of_kept_similarity_is_the_mean_over_repeats(context, repeats, summaries):
    table = summaries["warmstart"].tables["kept_similarity"]
    kept = warmstart.kept_similarity(context, [r["warmstart"] for r in repeats])
    names = [*context.filter_names, "all filters"]
    keys = [(m, v, f) for m in MEASURES for v in VARIANTS for f in names]
    assert list(zip(table["measure"], table["variant"], table["filter"], strict=True)) == keys
    for row, (m, v, f) in enumerate(keys):
        values = kept[MEASURES.index(m), VARIANTS.index(v)]
        values = values.mean(-1) if f == "all filters" else values[:, names.index(f)]
        assert table["mean"][row] == pytest.approx(values.mean())
        assert table["sd"][row] == pytest.approx(values.std(ddof=1))


# --- all steps -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_also_when_repeats_are_computed_in_another_order(data, repeats):
    again = Context(STUDY, data)
    for repeat in (2, 1):
        assert bytes_of(computed(again, repeat)) == bytes_of(repeats[repeat - 1])


def test_one_repeats_results_do_not_depend_on_how_many_there_are(context, repeats):
    alone = computed(with_study(context, repeats=1), 1, steps=["noising"])
    assert bytes_of(alone) == {"noising": to_npz(repeats[0]["noising"])}


def test_another_seed_gives_other_results(context, repeats):
    other = noising.compute(with_study(context, seed=1), 1, {}, lambda images: None)
    assert not np.array_equal(other.subsets, repeats[0]["noising"].subsets)
    assert not np.array_equal(other.subsets, repeats[1]["noising"].subsets)


@pytest.mark.parametrize("name", STEPS)
def test_a_summary_has_a_note_finite_metrics_and_tables_whose_columns_are_equally_long(name, summaries):
    summary = summaries[name]
    assert summary.note
    assert MODULES[name].STEP.main_figure in summary.figures
    assert all(len({len(column) for column in table.values()}) == 1 for table in summary.tables.values())
    children = [metric for child in summary.children for metric in child.metrics]
    assert all(np.isfinite(value) and isinstance(step, int) for _, value, step in [*summary.metrics, *children])


@pytest.mark.parametrize(("name", "position"), [("subset_training", 0), ("warmstart", 3)])
def test_children_come_with_their_filters_of_all_repeats(name, position, repeats, summaries):
    child = summaries[name].children[position]
    with np.load(io.BytesIO(child.files["filters.npz"])) as file:
        arrays = dict(file)
    key, prefix = ("weights", "") if name == "subset_training" else ("final", "final_")
    for r, results in enumerate(repeats):
        expected = filters_of([w[position] for w in getattr(results[name], key)])
        found = [f for layer in ("conv1", "conv2") for f in arrays[prefix + layer][r]]
        np.testing.assert_array_equal(found, expected)


# --- what was found, in words ----------------------------------------------------------------------------------------

BASE = np.array([94.0, 95.0, 94.5, 93.8, 94.9, 95.3, 94.2])
WOBBLE = np.array([0.1, -0.1, 0.2, 0.0, -0.2, 0.1, -0.1])


def headline(accuracies, repeats=7, **changes):
    """Return the headline for accuracies by variant."""
    study = Study(repeats=repeats, variants=tuple(accuracies), **changes)
    table = {key: [] for key in ("variant", "difference", "CI low", "CI high")}
    for name, values in accuracies.items():
        compared = name != "random_init" and "random_init" in accuracies
        d = paired_difference(values[:repeats], accuracies["random_init"][:repeats]) if compared else None
        row = (name, d.mean, d.ci_low, d.ci_high) if d else (name, None, None, None)
        for key, value in zip(table, row, strict=True):
            table[key].append(value)
    return warmstart.headline(Context(study, None), table)


def test_the_headline_says_which_variants_are_above_below_or_not_distinguishable():
    text = headline(
        {"cosine": BASE + 2 + WOBBLE, "random_init": BASE, "pearson": BASE - 3 + WOBBLE, "frobenius": BASE + WOBBLE}
    )
    assert text.startswith("Test accuracy in percent after target training: 7 paired repeats, level 1, seed 0. ")
    assert "Compared with random_init (95 % confidence): " in text
    assert "cosine 2.00 points above;" in text
    assert "pearson 3.00 points below;" in text
    assert re.search(r"frobenius not distinguishable from it \([+−]0\.00 points\)\.$", text)
    assert "random_init 0" not in text


def test_a_difference_that_is_not_distinguishable_is_shown_with_its_sign():
    wide = 10 * WOBBLE
    assert "(+0.50 points)" in headline({"random_init": BASE, "cosine": BASE + 0.5 + wide})
    assert "(−0.50 points)" in headline({"random_init": BASE, "cosine": BASE - 0.5 + wide})


def test_differences_that_are_all_the_same_are_certain_unless_they_are_zero():
    assert "cosine 0.50 points above" in headline({"random_init": BASE, "cosine": BASE + 0.5})
    assert "cosine 0.50 points below" in headline({"random_init": BASE, "cosine": BASE - 0.5})
    assert "cosine not distinguishable" in headline({"random_init": BASE, "cosine": BASE})


@pytest.mark.parametrize(("repeats", "said"), [(2, True), (5, True), (6, False), (7, False)])
def test_few_repeats_come_with_a_word_on_what_wilcoxon_can_show(repeats, said):
    text = headline({"random_init": BASE, "cosine": BASE + 1 + WOBBLE}, repeats)
    assert f"{repeats} paired repeats" in text
    assert ("Fewer than 6 repeats cannot give a Wilcoxon p under 0.05" in text) == said


def test_without_random_init_nothing_is_compared():
    text = headline({"cosine": BASE, "pearson": BASE})
    assert text.endswith("Nothing is compared: random_init is not among the variants.")
    assert "above" not in text


def test_with_random_init_alone_nothing_is_compared():
    assert headline({"random_init": BASE}).endswith("Nothing is compared: random_init is the only variant.")


def test_one_repeat_shows_nothing_reliably():
    text = headline({"random_init": BASE, "cosine": BASE + 5}, 1)
    assert "1 paired repeat," in text
    assert text.endswith("A single repeat shows no difference reliably.")


def test_the_headline_names_level_and_seed():
    text = headline({"random_init": BASE, "cosine": BASE + WOBBLE}, level=0.25, seed=7)
    assert "level 0.25, seed 7" in text


def test_the_warm_starts_summary_begins_with_the_headline_and_its_table(summaries):
    summary = summaries["warmstart"]
    assert summary.note.startswith("Test accuracy in percent after target training: 2 paired repeats, level 1, seed 0")
    assert summary.terminal.startswith(summary.note.split("\n")[0])
    for name in VARIANTS:
        assert f"| {name}" in summary.note


def test_a_variant_under_two_names_is_refused():
    with pytest.raises(ParameterError, match="'cosine' and 'cosine\\+transplant' are the same"):
        warmstart.variants_of(Study(variants=("random_init", "cosine", "cosine+transplant")))
