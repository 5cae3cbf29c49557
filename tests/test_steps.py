import dataclasses
import io
import pickle
import re
from collections import Counter
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from small_study import (
    COMPUTING,
    DONORS,
    LAYERS,
    STEPS,
    STUDY,
    SUBSET,
    TRAIN,
    VARIANTS,
    WEIGHTS,
    all_summaries,
    both_repeats,
    computed,
    filters_of,
    network,
    only_draw_orders,
    the_context,
    with_study,
)

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.errors import StudyError
from cnnsim_tf.models import build, fresh_weights
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.run.storage import to_npz
from cnnsim_tf.seeds import integer_seed
from cnnsim_tf.steps import noising, subset_training, warmstart
from cnnsim_tf.steps.arrays import without_dropped
from cnnsim_tf.steps.kept import Repeats, column
from cnnsim_tf.steps.noising import digest, noised_subset, noised_test_set, verified_subset
from cnnsim_tf.steps.step import MOST_CHARTED, Context, by_repeat, metrics_by_repeat, stored_fields


def bytes_of(results):
    return {name: to_npz(result) for name, result in results.items()}


@pytest.fixture(scope="module")
def context():
    return the_context()


@pytest.fixture(scope="module")
def repeats():
    return both_repeats()[0]


@pytest.fixture(scope="module")
def summaries():
    return all_summaries()


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
    assert {n: w.shape for n, w in result.weights.items()} == {n: (DONORS, *shape) for n, shape in WEIGHTS.items()}
    assert list(result.weights) == list(WEIGHTS)  # Keras's order
    assert result.epoch_loss.shape == result.epoch_accuracy.shape == (DONORS, 1)
    assert result.test_loss.shape == result.test_accuracy.shape == (DONORS, 1 + DONORS)
    assert {w.dtype for w in result.weights.values()} == {np.dtype(np.float32)}
    curves = [result.epoch_loss, result.epoch_accuracy, result.test_loss, result.test_accuracy]
    assert {c.dtype for c in curves} == {np.dtype(np.float64)}  # so that percentages that are equal are equal numbers


def test_a_similarity_result_has_the_contracts_shapes(repeats):
    result = repeats[0]["similarity"]
    for scores in (result.scores, result.fresh_scores):
        assert (scores.shape, scores.dtype) == ((3, 10, 15), np.float32)
    for scores in (result.layer_scores, result.fresh_layer_scores):
        assert (scores.shape, scores.dtype) == ((4, LAYERS, 15), np.float32)
    assert (result.partners.shape, result.partners.dtype) == ((3, 10, 15), np.int64)
    assert result.pairs.shape == result.least_pairs.shape == result.donors.shape == (3, 10)
    assert result.pairs.dtype == result.least_pairs.dtype == result.donors.dtype == np.int64
    assert (result.sides.shape, result.sides.dtype) == ((10,), np.int64)
    assert (result.layer_reasons.shape, result.layer_reasons.dtype.kind) == ((2, 4, LAYERS, 15), "U")
    assert result.aligned == {}


def test_a_warmstart_result_has_the_contracts_shapes(repeats):
    result, count = repeats[0]["warmstart"], len(VARIANTS)
    for weights in (result.initial, result.final):
        assert {n: w.shape for n, w in weights.items()} == {n: (count, *shape) for n, shape in WEIGHTS.items()}
        assert list(weights) == list(WEIGHTS)
        assert {w.dtype for w in weights.values()} == {np.dtype(np.float32)}
    assert result.points.tolist() == [19]  # 600 images in batches of 32
    assert result.epoch_loss.shape == (count, 1)
    assert result.train_loss.shape == result.test_loss.shape == result.test_accuracy.shape == (count, 1)
    assert result.start_loss.shape == result.start_accuracy.shape == (count,)
    assert result.noise_loss.shape == result.noise_accuracy.shape == (count, DONORS)
    assert result.dead.shape == result.activation_mean.shape == result.activation_sd.shape == (2, count, LAYERS)
    assert result.gradient_norms.shape == (count, 10, LAYERS)
    floats = (result.test_accuracy, result.start_accuracy, result.noise_accuracy, result.gradient_norms)
    assert {x.dtype for x in floats} == {np.dtype(np.float64)}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_reports_as_many_image_passes_as_it_announces(name, context):
    _, passes = both_repeats()
    assert passes[name] == PIPELINE[name].code.passes(context)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/kernel:0", "a/bias:0"], ["a/kernel", "a/bias"]),
        (["a:0", "a:0", "a:0"], ["a", "a_2", "a_3"]),
        (["a_2:0", "a:0", "a:0"], ["a_2", "a", "a_3"]),
        (["a:0", "a:0", "a_2:0"], ["a", "a_2", "a_2_2"]),
    ],
)
def test_weights_are_called_as_keras_calls_them_and_no_two_alike(names, expected):
    context = Context(STUDY, None)
    vars(context)["model"] = SimpleNamespace(weights=[SimpleNamespace(name=name) for name in names])
    assert context.weight_names == expected
    arrays = [np.array([i]) for i in range(len(names))]
    assert list(context.named(arrays).values()) == arrays


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
        verified_subset(with_study(**other), 1, 2, repeats[0]["noising"])


def test_a_digest_changes_with_a_single_bit():
    images = np.zeros((2, 8, 8), np.float32)
    before = digest(images)
    images[1, 7, 7] = -0.0
    assert digest(images) != before


def test_at_level_0_the_noised_subsets_and_test_sets_are_clean(context):
    clean_context = with_study(level=0)
    result = noising.compute(clean_context, 1, {}, lambda images: None)
    for d, indices in enumerate(result.subsets):
        assert result.digests[d] == digest(to_unit(context.dataset.x_train[indices]))
        assert noised_test_set(clean_context, 1, d).tobytes() == context.test_images.tobytes()
    assert not result.statistics[:, 4:].any()  # mean change and changed images
    assert result.clean.tobytes() == result.noised.tobytes()


def test_the_level_changes_the_noise_but_not_the_shuffle(context, repeats):
    weak = noising.compute(with_study(level=0.5), 1, {}, lambda images: None)
    np.testing.assert_array_equal(weak.subsets, repeats[0]["noising"].subsets)
    assert not set(weak.digests) & set(repeats[0]["noising"].digests)


# --- subset training -------------------------------------------------------------------------------------------------


def test_donors_differ_from_each_other_and_from_their_fresh_weights(repeats):
    weights = repeats[0]["subset_training"].weights
    fresh = fresh_weights("reference", 28, 10, integer_seed(0, 1, "donor 1 weights"))
    for w, before in zip(weights.values(), fresh, strict=True):
        assert len({donor.tobytes() for donor in w}) == DONORS
        assert not np.array_equal(w[0], before)


def test_donors_are_tested_on_clean_data_first_and_then_on_every_noise(context, repeats):
    result = repeats[1]["subset_training"]
    tests = [context.test_images, *(noised_test_set(context, 2, d) for d in range(DONORS))]
    model = build("reference", 28, 10)
    for donor in (0, 5):
        model.set_weights(network(result.weights, donor))
        for test, images in enumerate(tests):
            logits = model(images[..., None]).numpy()
            accuracy = 100 * (logits.argmax(1) == context.dataset.y_test).mean()
            loss = keras.losses.sparse_categorical_crossentropy(context.dataset.y_test, logits, from_logits=True)
            assert result.test_accuracy[donor, test] == pytest.approx(accuracy, abs=0.51)  # one near-tie
            assert result.test_loss[donor, test] == pytest.approx(float(np.mean(loss)), rel=1e-4)


def test_no_two_uses_of_chance_in_a_repeat_share_a_purpose(repeats, monkeypatch):
    used = []

    def recorded(function):
        def record(seed, repeat, purpose):
            assert (seed, repeat) == (0, 1)
            used.append(purpose)
            return function(seed, repeat, purpose)

        return record

    for module in COMPUTING.values():
        for name in {"rng", "integer_seed"} & set(vars(module)):
            monkeypatch.setattr(module, name, recorded(getattr(module, name)))
        if hasattr(module, "train"):
            monkeypatch.setattr(module, "train", only_draw_orders)
    longer = with_study(epochs=2, target_epochs=2, align="network", target="mixed")
    by_step = {}
    for name, module in COMPUTING.items():
        used.clear()
        module.compute(longer, 1, dict(repeats[0]), lambda images: None)
        by_step[name] = Counter(used)
    assert sum(by_step["noising"].values()) == len(by_step["noising"]) == 1 + DONORS
    donors = by_step["subset_training"]
    assert (
        sum(donors.values()) == len(donors) == DONORS * (1 + 1 + 1 + 2 + 1)
    )  # noise, weights, random layers, epochs, test set
    noises = set(by_step["noising"]) - {"subsets"}
    tests = {purpose for purpose in donors if purpose.startswith("noise of test set")}
    fresh_donors = {f"donor {d + 1} weights" for d in range(DONORS)}
    assert noises <= set(donors) and fresh_donors <= set(donors)  # the same noise and weights, derived anew
    # The side of a pair is shared on purpose by all measures, the scheme's chance and the batches by all variants.
    chosen = by_step["similarity"]
    assert sum(chosen.values()) == len(chosen)
    assert set(chosen) - fresh_donors == {"donor of the pair", "alignment of donors", "alignment of fresh donors"}
    variants = by_step["warmstart"]
    assert variants.pop("scheme") == len(VARIANTS)
    for shared in ("batches of target epoch 1", "random layers of target training"):
        assert variants.pop(shared) == 2  # for the norms of the first gradients, and to train
    assert len(tests) == DONORS and tests | noises <= set(variants)  # derived anew once more
    assert sum(variants.values()) == len(variants) == 2 * DONORS + 1 + 1  # fresh weights, the second epoch
    everything = [*by_step["noising"], *(set(donors) - noises), *(set(chosen) - fresh_donors), "scheme"]
    everything += ["batches of target epoch 1", "random layers of target training", *(set(variants) - tests - noises)]
    assert len(everything) == len(set(everything))


# --- all steps -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_also_without_the_repeat_before_it(context, repeats):
    assert bytes_of(computed(Context(STUDY, context.dataset), 2)) == bytes_of(repeats[1])


def test_one_repeats_results_do_not_depend_on_how_many_there_are(context, repeats):
    alone = computed(with_study(repeats=1), 1, steps=["noising"])
    assert bytes_of(alone) == {"noising": to_npz(repeats[0]["noising"])}


def test_another_seed_gives_other_results(context, repeats):
    other = noising.compute(with_study(seed=1), 1, {}, lambda images: None)
    assert not np.array_equal(other.subsets, repeats[0]["noising"].subsets)
    assert not np.array_equal(other.subsets, repeats[1]["noising"].subsets)


@pytest.mark.parametrize("name", STEPS)
def test_a_summary_has_a_note_finite_metrics_tables_and_its_steps_figures_and_children(name, summaries):
    summary = summaries[name]
    assert summary.note
    assert PIPELINE[name].main_figure in summary.figures
    assert list(summary.children) == PIPELINE[name].child_names(STUDY)
    assert all(isinstance(table, pd.DataFrame) and len(table) for table in summary.tables.values())
    metrics = [*summary.metrics, *(metric for child in summary.children.values() for metric in child.metrics)]
    assert metrics
    assert all(isinstance(step, int) for _, _, step in metrics)
    assert all(np.isfinite(value) for _, value, _ in metrics)


@pytest.mark.parametrize(("name", "position"), [("subset_training", 0), ("warmstart", 3)])
def test_children_come_with_their_filters_of_all_repeats(name, position, repeats, summaries):
    child = list(summaries[name].children.values())[position]
    with np.load(io.BytesIO(child.files["filters.npz"]())) as file:
        arrays = dict(file)
    key, prefix = ("weights", "") if name == "subset_training" else ("final", "final_")
    for r, results in enumerate(repeats):
        expected = filters_of(network(getattr(results[name], key), position))
        found = [f for layer in ("conv1", "conv2") for f in arrays[prefix + layer][r]]
        np.testing.assert_array_equal(found, expected)


# --- what is kept of repeats -----------------------------------------------------------------------------------------


def only_kept(name):
    """Return the results of all repeats as a study has them when it summarises, and which were read back."""
    code, full, back = PIPELINE[name].code, [r[name] for r in both_repeats()[0]], []
    kept = Repeats(code.Result, len(full), lambda repeat: back.append(repeat) or full[repeat - 1])
    for repeat in (2, 1):  # as they may be computed
        kept.keep(repeat, without_dropped(full[repeat - 1], code.sizes(the_context())))
    return kept, back


@pytest.mark.parametrize("name", STEPS)
def test_a_step_shows_the_same_of_what_is_kept_as_of_everything(name):
    kept = {step: only_kept(step)[0] for step in STEPS}
    shown, full = PIPELINE[name].code.summarise(the_context(), kept[name], kept), all_summaries()[name]
    assert (shown.note, shown.metrics, shown.terminal) == (full.note, full.metrics, full.terminal)
    for table in full.tables:
        pd.testing.assert_frame_equal(shown.tables[table], full.tables[table], check_exact=True)
    for child, of in full.children.items():
        files = ({path: make() for path, make in each.files.items()} for each in (shown.children[child], of))
        assert next(files) == next(files) and shown.children[child].metrics == of.metrics
    drawn = ({n: pickle.dumps(f.make) for n, f in summary.figures.items()} for summary in (shown, full))
    assert next(drawn) == next(drawn)


def test_models_are_those_of_whole_repeats_and_only_these_are_read_back():
    kept, back = only_kept("warmstart")
    full = [r["warmstart"] for r in both_repeats()[0]]
    for one, other in zip(*(warmstart.models(the_context(), results) for results in (kept, full)), strict=True):
        assert (one.name, one.tags, one.description) == (other.name, other.tags, other.description)
        weights = one.model.get_weights()
        assert all((a == b).all() for a, b in zip(weights, other.model.get_weights(), strict=True))
    assert len(back) == len(VARIANTS)


def test_repeats_are_there_in_their_order_whichever_came_first_and_also_if_some_are_missing():
    def result(text, number):
        return noising.NoisingResult(None, np.array([text]), np.array([[number, np.nan]]), None, None)

    repeats = Repeats(noising.NoisingResult, 4, read=None)
    for repeat, text in ((4, "a"), (1, "a longer one"), (2, "")):
        repeats.keep(repeat, result(text, repeat / 3))
    assert len(repeats) == len(list(repeats)) == 3
    assert [repeats.has(repeat) for repeat in range(1, 6)] == [True, True, False, True, False]
    assert [r.digests.tolist() for r in repeats] == [["a longer one"], [""], ["a"]]
    assert [r.statistics[0, 0] for r in repeats[:2]] == [1 / 3, 2 / 3] and repeats[-1].statistics[0, 0] == 4 / 3
    assert repeats[0].clean is None and repeats[0].images == ()
    with pytest.raises(IndexError):
        repeats[3]


@pytest.mark.parametrize("name", STEPS)
def test_little_is_kept_of_a_repeat(name):
    def size(result):
        values = [getattr(result, field.name) for field in stored_fields(type(result))]
        return sum(a.nbytes for v in values if v is not None for a in (v.values() if isinstance(v, dict) else [v]))

    (kept, *_), full = only_kept(name)[0], both_repeats()[0][0][name]
    assert size(kept) < 15_000 and size(kept) < size(full)


def test_of_very_many_repeats_the_first_have_metrics_and_the_note_says_so():
    values = np.arange(MOST_CHARTED + 1) / 7
    metrics = by_repeat("accuracy/per_repeat_pct", values)
    assert metrics == [("accuracy/per_repeat_pct", value, r) for r, value in enumerate(values[:-1].tolist(), 1)]
    assert "(the first 2,000 are there)" in metrics_by_repeat(MOST_CHARTED + 1)
    assert "first" not in metrics_by_repeat(MOST_CHARTED)


@pytest.mark.parametrize("missing", [(), (2,)])
def test_columns_are_fields_of_the_repeats_that_are_there_in_order_and_zeros_are_zeros(missing):
    rng = np.random.default_rng(0)
    full = [OfOne(rng.normal(size=(2, 3)), {"a": rng.normal(size=2), "b": np.zeros(4, int)}) for _ in range(3)]
    kept = Repeats(OfOne, 3, lambda repeat: full[repeat - 1])
    for repeat in {3, 1, 2} - {*missing}:
        kept.keep(repeat, full[repeat - 1])
    there = [each for repeat, each in enumerate(full, 1) if repeat not in missing]
    for results in (kept, there):
        np.testing.assert_array_equal(column(results, "values"), [each.values for each in there])
        for key, found in column(results, "parts").items():
            np.testing.assert_array_equal(found, [each.parts[key] for each in there])


@dataclasses.dataclass(frozen=True)
class OfOne:
    values: np.ndarray
    parts: dict[str, np.ndarray]
