"""Numbers and tables as text, and links to pages of the MLflow UI."""

import json
import math
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest

from cnnsim_tf.report.formats import (
    Number,
    estimate,
    file_name,
    interval,
    is_number,
    listed,
    markdown,
    number,
    out_of,
    p_value,
    plus_minus,
    shown,
    text_table,
    texts,
)
from cnnsim_tf.report.links import charts_link, figures_link, versions_link

BASE = "http://127.0.0.1:5000"
NAN = float("nan")
TABLE = pd.DataFrame(
    {"variant": ["random_init", "cosine"], "accuracy": [94.316, 89.019], "difference": [None, -5.297], "n": [20, 5]}
)


def page(link):
    """Return the path and the query that the UI's router sees behind the #."""
    assert link.startswith(f"{BASE}/#/")
    assert " " not in link
    inner = urlsplit(link.split("#", 1)[1])
    return inner.path, {key: values[0] for key, values in parse_qs(inner.query, strict_parsing=True).items()}


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (94.316, ".2f", "94.32"),
        (-5.297, ".2f", "−5.30"),
        (0.5, "+.2f", "+0.50"),
        (-0.5, "+.2f", "−0.50"),
        (0.0, ".3f", "0.000"),
        (-1e-5, ".0e", "−1e−05"),
        (np.float32(1.5), ".1f", "1.5"),
        (3, ".2f", "3.00"),
        (None, ".2f", "–"),
        (NAN, "+.2f", "–"),
        (float("inf"), ".2f", "inf"),
        (float("-inf"), "+.2f", "−inf"),
        (0.26, "+.1f", "+0.3"),
        (-0.26, "+.1f", "−0.3"),
        (0.04, "+.1f", "0.0"),
        (-0.04, "+.1f", "0.0"),
        (-0.04, ".1f", "0.0"),
        (np.float32(-0.04), ".0f", "0"),
        (-0.4, ",.0f", "0"),
        (1234567.8, ",.0f", "1,234,568"),
    ],
)
def test_numbers_have_a_true_minus_sign_and_a_dash_stands_for_none(value, spec, text):
    assert number(value, spec) == text


@pytest.mark.parametrize(
    ("mean", "sd", "text"), [(94.316, 1.0788, "94.32 ± 1.08"), (94.316, NAN, "94.32"), (-0.5, 0.25, "−0.50 ± 0.25")]
)
def test_a_mean_comes_with_its_sd_if_it_has_one(mean, sd, text):
    assert plus_minus(mean, sd) == text


def test_a_mean_has_as_many_decimals_as_asked_for():
    assert plus_minus(0.73349, 0.1, 3) == "0.733 ± 0.100"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5, -0.004, 1.0), "+0.50 [0.00, +1.00]"),
        ((0.5, NAN, NAN), "+0.50"),
        ((0.5, 0.25, NAN), "+0.50"),
        ((NAN, NAN, NAN), "–"),
    ],
)
def test_an_estimate_comes_with_its_interval_if_it_has_one(numbers, text):
    assert estimate(*numbers, "+.2f") == text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.04251, "0.043"),
        (1.0, "1.000"),
        (0.001, "0.001"),
        (0.00099, "< 0.001"),
        (0.0, "< 0.001"),
        (None, "–"),
        (NAN, "–"),
    ],
)
def test_p_values_have_three_decimals_and_very_small_ones_a_bound(p, text):
    assert p_value(p) == text


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_markdown_table_has_a_header_a_rule_and_a_row_per_entry():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown(TABLE).splitlines()]
    assert rows[0] == ["variant", "accuracy", "difference", "n"]
    assert all(set(cell) <= set("-:") for cell in rows[1])
    assert rows[2:] == [["random_init", "94.32", "–", "20"], ["cosine", "89.02", "−5.297", "5"]]


def test_a_text_table_has_names_to_the_left_and_numbers_to_the_right():
    assert text_table(TABLE).splitlines() == [
        "variant        accuracy    difference    n",
        "-----------  ----------  ------------  ---",
        "random_init       94.32             –   20",
        "cosine            89.02        −5.297    5",
    ]


def test_cells_that_look_like_numbers_stay_as_they_are():
    table = pd.DataFrame({"pair": ["1-2"], "digest": ["1e5"]})
    assert "1-2" in markdown(table) and "1e5" in markdown(table)
    assert "1-2" in text_table(table) and "1e5" in text_table(table)


def test_a_columns_largest_number_decides_on_its_decimals():
    table = pd.DataFrame({"name": [*"abcd"], "x": [9.9994, 10.0, -12.345, NAN], "y": [9.9994, -0.5, NAN, 0.0]})
    rows = [line.split()[1:] for line in text_table(table).splitlines()[2:]]
    assert [x for x, _ in rows] == ["10.00", "10.00", "−12.35", "–"]
    assert [y for _, y in rows] == ["9.999", "−0.500", "–", "0.000"]


def test_a_table_without_rows_still_has_its_header():
    assert text_table(TABLE[:0]).split()[:2] == ["variant", "accuracy"]


@pytest.mark.parametrize(
    ("column", "expected", "of_numbers"),
    [
        ([94.316, -5.2, NAN, None], ["94.32", "−5.20", "–", "–"], True),
        ([9.9994, -0.5], ["9.999", "−0.500"], True),
        ([0.00012, 0.0031], ["0.00012", "0.00310"], True),
        ([0.0, -0.0001], ["0.000000", "−0.000100"], True),
        ([0.5, -0.0001, 0.0], ["0.500", "0.000", "0.000"], True),
        ([1234.5, 2.0], ["1,234", "2"], True),
        ([600000, 5, None], ["600,000", "5", "–"], True),
        ([NAN, NAN], ["–", "–"], True),
        ([math.inf, 1.25], ["inf", "1.250"], True),
        ([np.int64(12), np.int64(5)], ["12", "5"], True),
        (pd.array([12, None], "Int64"), ["12", "–"], True),
        ([np.float32(0.5), np.float64(0.25)], ["0.500", "0.250"], True),
        (["123456", "0.5", "1e-3"], ["123456", "0.5", "1e-3"], False),
        ([123456, "mnist", True, None], ["123456", "mnist", "True", "–"], False),
        ([True, False], ["True", "False"], False),
        ([number(94.316), plus_minus(1, 2), ""], ["94.32", "1.00 ± 2.00", ""], False),
        ([number(94.316), plus_minus(1, 2), Number("")], ["94.32", "1.00 ± 2.00", ""], True),
        ([], [], False),
    ],
)
def test_a_columns_numbers_have_the_same_decimals_texts_stay_and_numbers_are_told_from_words(
    column, expected, of_numbers
):
    series = pd.Series(column, dtype=None if len(column) else object)
    assert texts(series) == expected
    assert is_number(series) == of_numbers
    cells = [str(cell) for cell in texts(series.astype(object))]  # as a table of mixed columns holds them
    assert cells == expected and is_number(series.astype(object)) == of_numbers


def test_texts_of_numbers_are_known_as_such_and_stand_to_the_right():
    made = [number(1.0), plus_minus(1, NAN), interval(0, 1), estimate(1, 0, 2), p_value(0.04), out_of(3, 20)]
    nothing = [number(None), interval(None, None), interval(0, NAN), estimate(NAN, 0, 1), p_value(NAN)]
    assert all(isinstance(text, Number) for text in [*made, *nothing])
    assert made == ["1.00", "1.00", "0.00 to +1.00", "1.00 [0.00, 2.00]", "0.040", "3 of 20"]
    assert nothing == ["–"] * 5
    table = pd.DataFrame({"variant": ["a", "long_name"], "p": [p_value(0.04), Number("")]})
    assert text_table(table).splitlines()[2:] == ["a          0.040", "long_name"]
    assert markdown(table.assign(p=[p_value(0.04), number(-10)])).splitlines()[2:] == [
        "| a         |  0.040 |",
        "| long_name | −10.00 |",
    ]


def test_cells_are_shown_by_the_names_of_their_columns_and_what_lacks_is_blank():
    table = shown([{"variant": "a", "x": number(1)}, {"y": number(2), "variant": "b"}], more=["x", "z"])
    assert table.to_dict("list") == {"variant": ["a", "b"], "x": ["1.00", ""], "y": ["", "2.00"], "z": ["", ""]}
    assert [is_number(table[column]) for column in table] == [False, True, True, True]
    assert shown([]).empty


@pytest.mark.parametrize(("names", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_names_are_listed_as_people_do(names, text):
    assert listed(names) == text


@pytest.mark.parametrize(
    ("name", "text"), [("cosine", "cosine"), ("cosine+transplant", "cosine_transplant"), ("my.own:f", "my_own_f")]
)
def test_names_in_files_and_metrics_are_letters_digits_and_underscores(name, text):
    assert file_name(name) == text


# --- links -----------------------------------------------------------------------------------------------------------


def test_the_charts_link_searches_for_a_runs_children_of_one_role_in_chart_mode():
    assert page(charts_link(BASE, "7", "abc123", "variant")) == (
        "/experiments/7/runs",
        {
            "workflowType": "machine_learning",
            "searchFilter": "tags.mlflow.parentRunId='abc123' and tags.`cnnsim.role`='variant'",
            "orderByKey": "tags.`mlflow.runName`",
            "orderByAsc": "true",
            "compareRunsMode": "CHART",
        },
    )


def test_the_figures_link_is_the_runs_artifact_page_at_one_figure():
    path, query = page(figures_link(BASE, "7", "abc123", "accuracy_by_variant.png"))
    assert path == "/experiments/7/runs/abc123/artifacts/figures/accuracy_by_variant.png"
    assert query == {"workflowType": "machine_learning"}


@pytest.mark.parametrize("model", ["cnnsim_warmstart", "my model & 50 % more", "modèle #1?"])
def test_the_versions_link_names_the_model_and_its_versions_as_json(model):
    versions = {"4": "run-a", "5": "run-b", "12": "run-c"}
    path, query = page(versions_link(BASE, model, versions))
    assert path == "/compare-model-versions"
    assert json.loads(query["name"]) == model
    assert json.loads(query["runs"]) == versions
    assert list(json.loads(query["runs"])) == list(versions)
    assert query["workflowType"] == "machine_learning"
