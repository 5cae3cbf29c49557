"""The similarity step's tables against loops."""

import dataclasses

import numpy as np
import pytest
from small_study import (
    LAYERS,
    MEASURES,
    PAIRS,
    STUDY,
    both_repeats,
    filters_of,
    network,
    rows_of,
    summary_of,
    the_context,
    with_study,
)

from cnnsim_tf.steps.similarity.repeat import SimilarityResult, donors_used
from cnnsim_tf.steps.similarity.tables import extremes, layers_table, pair_tables, selections, stacked

R = 2
REASONS = ("donor 1's layer gives nothing", "donor 2's layer gives nothing")


def side_by_side(**parts):
    """Return results side by side of which only these parts are looked at."""
    return SimilarityResult(**dict.fromkeys(f.name for f in dataclasses.fields(SimilarityResult)) | parts)


def scores_of(name):
    return np.stack([getattr(r["similarity"], name) for r in both_repeats()[0]]).astype(float)


def test_the_table_of_similarity_per_filter_is_that_of_a_loop():
    rows = iter(rows_of(summary_of("similarity").tables["similarity_per_filter"]))
    scores, fresh = scores_of("scores"), scores_of("fresh_scores")
    for m, measure in enumerate(MEASURES):
        for f in [*range(10), None]:
            row = next(rows)
            filters = range(10) if f is None else [f]
            trained, untrained = (
                [x[r, m, g, p] for r in range(R) for g in filters for p in range(15)] for x in (scores, fresh)
            )
            assert row["measure"] == measure
            assert row["filter"] == ("all filters" if f is None else the_context().filter_names[f])
            assert (row["mean"], row["sd"]) == pytest.approx((np.mean(trained), np.std(trained, ddof=1)))
            null = (row["untrained mean"], row["untrained sd"])
            assert null == pytest.approx((np.mean(untrained), np.std(untrained, ddof=1)))
            assert row["most alike"] == (min(trained) if measure == "frobenius" else max(trained))
    assert next(rows, None) is None


def test_the_table_of_selected_pairs_is_that_of_a_loop():
    rows = rows_of(summary_of("similarity").tables["selected_pairs"])
    chosen = [[p for r in both_repeats()[0] for p in r["similarity"].pairs[m]] for m in range(3)]
    keys = [(m, p) for m in range(3) for p in range(15)]
    for row, (m, p) in zip(rows, keys, strict=True):
        i, j = PAIRS[p]
        assert (row["measure"], row["pair"]) == (MEASURES[m], f"{i + 1}-{j + 1}")
        assert row["donors"] == f"{STUDY.noises[i]}, {STUDY.noises[j]}"
        assert row["times chosen"] == chosen[m].count(p)
        assert row["share %"] == pytest.approx(100 * chosen[m].count(p) / 20)


def chosen_in_short(pairs):
    """Return the rows of the table that people read, of pairs [R, 1, F] that cosine chose."""
    context = with_study(measures=("cosine",))
    return rows_of(pair_tables(context, selections(context, side_by_side(pairs=pairs)))[1])


def test_the_most_frequent_pair_stands_beside_what_chance_would_give():
    """Twenty repeats that always choose 2-5 cannot be chance; a tie names both pairs; one repeat shows nothing."""
    always = np.full((20, 10), PAIRS.index((1, 4)))
    tied = np.tile([0, 0, 14, 14, 3, 4, 5, 6, 7, 8], (1, 1))
    (first,) = chosen_in_short(always[:, None])
    assert (first["most frequent pair"], first["share %"]) == ("2-5", 100)
    assert first["share % by chance"] == pytest.approx(100 / 15)
    assert (first["p most frequent"], first["p uniform"]) == ("< 0.001", "< 0.001")
    (second,) = chosen_in_short(tied[:, None])
    assert (second["most frequent pair"], second["share %"]) == ("1-2 and 5-6", 20)
    assert (second["p most frequent"], second["p uniform"]) == ("1.000", "1.000")


def test_the_table_of_extreme_pairs_points_to_the_extreme_scores():
    rows = rows_of(summary_of("similarity").tables["extreme_pairs"])
    assert [(r["measure"], r["which"]) for r in rows] == [
        (m, w) for m in MEASURES for w in ("most alike", "least alike")
    ]
    for row in rows:
        scores = scores_of("scores")[:, MEASURES.index(row["measure"])]
        largest = (row["which"] == "most alike") != (row["measure"] == "frobenius")
        assert row["score"] == (scores.max() if largest else scores.min())
        i, j = (int(donor) - 1 for donor in row["pair"].split("-"))
        f = the_context().filter_names.index(row["filter"])
        assert scores[row["repeat"] - 1, f, PAIRS.index((i, j))] == row["score"]


def test_an_extreme_pair_of_two_positions_names_both():
    scores, partners = np.zeros((1, 1, 10, 15)), np.tile(np.arange(10)[:, None], (1, 1, 1, 15)).reshape(1, 1, 10, 15)
    scores[0, 0, 3, 7], partners[0, 0, 3, 7] = 0.9, 8
    trained = both_repeats()[0][0]["subset_training"]
    donors, names = trained.weights, the_context().filter_names
    result = side_by_side(partners=partners[0])
    table, drawn = extremes(with_study(measures=("cosine",)), side_by_side(scores=scores), [result], [trained])
    assert table["filter"][0] == f"{names[3]} and {names[8]}"
    assert table["pair"][0] == "-".join(str(d + 1) for d in PAIRS[7])
    assert table["filter"][1] == names[0]  # of equal ones the first
    first, second = (filters_of(network(donors, d)) for d in PAIRS[7])
    (most,) = drawn["most alike"]
    np.testing.assert_array_equal(most.filters, [first[3], second[8]])
    assert most.where == f"repeat 1, {names[3]} and {names[8]}, donors {PAIRS[7][0] + 1} and {PAIRS[7][1] + 1}"


def test_results_of_all_repeats_stand_side_by_side():
    repeats = both_repeats()[0]
    similarity, donors = ([r[step] for r in repeats] for step in ("similarity", "subset_training"))
    s = stacked(similarity)
    for name in ("scores", "fresh_scores", "layer_scores", "pairs", "layer_reasons"):
        np.testing.assert_array_equal(getattr(s, name), [getattr(r, name) for r in similarity])
    assert donors_used(donors[1], similarity[1])[0] is donors[1].weights["conv1/kernel"]
    aligned = dataclasses.replace(similarity[1], aligned={"conv1/kernel": np.zeros(1)})
    assert donors_used(donors[1], aligned) == [np.zeros(1)]


def test_layers_have_means_over_what_is_defined_and_the_number_and_reasons_of_what_is_not():
    rng = np.random.default_rng(0)
    context = with_study(layer_measures=("linear_cka", "procrustes"))
    scores, fresh = rng.uniform(size=(2, R, 2, LAYERS, 15))
    reasons = np.full((R, 2, 2, LAYERS, 15), "", object)
    for r, p, why in ((0, 1, 0), (1, 5, 0), (1, 6, 1)):
        scores[r, 0, 2, p], reasons[r, 0, 0, 2, p] = np.nan, REASONS[why]
    fresh[:, 1, 3], reasons[:, 1, 1, 3] = np.nan, REASONS[1]
    s = side_by_side(layer_scores=scores, fresh_layer_scores=fresh, layer_reasons=reasons)
    rows = rows_of(layers_table(context, s))
    names = [name for name, _ in context.layers]
    assert [(r["measure"], r["layer"]) for r in rows] == [(m, n) for m in ("linear_cka", "procrustes") for n in names]
    for i, row in enumerate(rows):
        n, layer = divmod(i, LAYERS)
        for values, title in ((scores, ""), (fresh, "untrained ")):
            defined = [x for x in values[:, n, layer].ravel() if x == x]
            if defined:
                assert row[f"{title}mean"] == pytest.approx(np.mean(defined))
                assert row[f"{title}sd"] == pytest.approx(np.std(defined, ddof=1))
            else:
                assert np.isnan(row[f"{title}mean"]) and np.isnan(row[f"{title}sd"])
    told = {(r["measure"], r["layer"]): (r["not defined"], r["why"]) for r in rows if r["not defined"]}
    assert told == {
        ("linear_cka", names[2]): (3, f"{REASONS[0]} (2); {REASONS[1]} (1)"),
        ("procrustes", names[3]): (30, f"{REASONS[1]} (30)"),
    }


def test_metrics_are_the_mean_scores_over_all_by_repeat_and_by_layer():
    metrics = {(name, step): value for name, value, step in summary_of("similarity").metrics}
    scores, layers = scores_of("scores"), scores_of("layer_scores")
    for m, measure in enumerate(MEASURES):
        assert metrics[f"filters/{measure}_mean", 0] == pytest.approx(scores[:, m].mean())
        for r in range(R):
            assert metrics[f"filters/{measure}_per_repeat", r + 1] == pytest.approx(scores[r, m].mean())
    for n, measure in enumerate(STUDY.layer_measures):
        for layer, (name, _) in enumerate(the_context().layers):
            assert metrics[f"layers/{measure}/{name}", 0] == pytest.approx(np.nanmean(layers[:, n, layer]))
