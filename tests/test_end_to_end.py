"""The project as its user runs it: `mlflow run`, what it stores, its models, what happens when it is stopped."""

import contextlib
import html.parser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from scipy import stats
from stored import file_of, options_of, runs_of, table_of

from cnnsim_tf.datasets import load
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.run.storage import from_npz
from cnnsim_tf.study import Study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STEPS = [step.name for step in PIPELINE]
NOISES = ["perspective", "blur", "gaussian", "erasing", "elastic", "rotation"]
MEASURES = ["cosine", "pearson", "frobenius"]
PARTS = {  # measure and scheme by variant
    "random_init": ("none", "random_init"),
    **{measure: (measure, "transplant") for measure in MEASURES},
    "random_donor": ("none", "random_donor"),
    "pearson+centred_medoid_donor": ("pearson", "centred_medoid_donor"),
}
VARIANTS = list(PARTS)
BATCHES = [25, 50, 75]  # of 600 images in batches of 8: where the learning curves have their points
OPTIONS = {"repeats": "2", "epochs": "1", "batch_size": "8", "learning_rate": "1e-3"}
TABLES = {
    "noising": ["noise_statistics", "digests"],
    "subset_training": ["donor_accuracy"],
    "similarity": ["similarity_per_filter", "selected_pairs", "extreme_pairs", "layer_similarity"],
    "warmstart": [
        *("variants", "variant_pairs", "controls", "speed", "noise_accuracy", "inside", "collapses"),
        *("kept_similarity", "accuracy_per_repeat"),
    ],
}
CHATTER = ["tensorflow/", "WARNING", "Warning", "cuda", "Traceback"]


@pytest.fixture(scope="module", autouse=True)
def repository_untouched():
    """Whatever is run here, nothing of it is left in the repository's own store."""
    places = [*ROOT.glob("mlflow.db*"), *ROOT.glob("mlruns/**/*")]
    before = {p: (p.stat().st_size, p.stat().st_mtime) for p in places}
    yield
    places = [*ROOT.glob("mlflow.db*"), *ROOT.glob("mlruns/**/*")]
    assert {p: (p.stat().st_size, p.stat().st_mtime) for p in places} == before


def mlflow_run(step, environment, **parameters):
    """Run `mlflow run` as a user does, in a folder that is not the project's."""
    given = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
    return subprocess.run(
        ["mlflow", "run", str(ROOT), "-e", step, "--env-manager", "local", "--experiment-name", "study", *given],
        cwd=environment["HOME_OF_TEST"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def repeat_of(run, repeat):
    """Return one stored repeat of a step's run."""
    kind = PIPELINE[run.data.tags["cnnsim.step"]].code.Result
    return from_npz(kind, file_of(run, f"repeats/repeat_{repeat:03d}.npz").read_bytes())


def history(client, run, metric):
    return {m.step: m.value for m in client.get_metric_history(run.info.run_id, metric)}


@pytest.fixture(scope="module")
def environment(users_environment, new_store, tmp_path_factory):
    """Environment variables that name a tracking store of this module."""
    folder = tmp_path_factory.mktemp("study")
    return users_environment | {"MLFLOW_TRACKING_URI": new_store(folder), "HOME_OF_TEST": str(folder)}


@pytest.fixture(scope="module")
def study(environment, small_mnist):
    """The whole study by one `mlflow run`, and what MLflow had stored when it ended."""
    ended = mlflow_run("warmstart", environment, dataset=small_mnist, **OPTIONS)
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    runs = runs_of(client)
    steps = {r.data.tags["cnnsim.step"]: r for r in runs if r.data.tags.get("cnnsim.role") == "step"}
    return types.SimpleNamespace(
        ended=ended,
        client=client,
        runs=runs,
        steps=steps,
        donors={r.info.run_name: r for r in runs if r.data.tags.get("cnnsim.role") == "donor"},
        variants={r.info.run_name: r for r in runs if r.data.tags.get("cnnsim.role") == "variant"},
        warmstart=[repeat_of(steps["warmstart"], r) for r in (1, 2)] if "warmstart" in steps else [],
        dataset=load(str(small_mnist)),
        environment=environment,
    )


# --- what the terminal shows -----------------------------------------------------------------------------------------


def test_mlflow_run_succeeds_and_shows_the_result_and_how_to_browse_it(study):
    assert study.ended.returncode == 0, study.ended.stderr
    out = study.ended.stdout
    assert "2 paired repeats, level 1, seed 0" in out and "Does it end better?" in out
    table = table_of(study.steps["warmstart"], "variants")
    for variant, mean, sd in zip(table["variant"], table["accuracy mean %"], table["accuracy sd"], strict=True):
        assert re.search(rf"^{re.escape(variant)} +{float(mean):.2f} ± {float(sd):.2f} ", out, re.MULTILINE), out
    store = study.environment["MLFLOW_TRACKING_URI"]
    assert f"mlflow ui --backend-store-uri {store}" in out and "nan" not in out.lower()


def test_three_links_lead_to_charts_versions_and_figures_of_these_runs(study):
    links = dict(re.findall(r"^  (\w+) +(http://127\.0\.0\.1:5000/\S+)$", study.ended.stdout, re.MULTILINE))
    assert list(links) == ["charts", "versions", "figures"]
    run_id = study.steps["warmstart"].info.run_id
    decoded = {name: urllib.parse.unquote(link) for name, link in links.items()}
    assert f"tags.mlflow.parentRunId='{run_id}'" in decoded["charts"] and "=CHART" in decoded["charts"]
    assert f"/runs/{run_id}/artifacts/figures/accuracy_by_variant.png" in decoded["figures"]
    assert file_of(study.steps["warmstart"], "figures/accuracy_by_variant.png").exists()
    versions = json.loads(re.search(r"runs=(\{.*?\})", decoded["versions"])[1])
    assert versions == {str(i): study.variants[v].info.run_id for i, v in enumerate(VARIANTS, 1)}
    assert all("workflowType=machine_learning" in link for link in links.values())


def test_stderr_shows_progress_and_nothing_that_libraries_say_of_themselves(study):
    err = study.ended.stderr
    for words in CHATTER:
        assert words not in err, err
    assert re.search(r"^warm start +100 % .*2 of 2 repeats", err, re.MULTILINE), err
    for title in ("noising", "subset training", "similarity", "warm start"):
        assert f"{title}: finished as run" in err
    assert "\r" not in err


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_study_is_a_tree_of_finished_runs(study):
    assert {r.info.status for r in study.runs} == {"FINISHED"}
    assert all("cnnsim.error" not in r.data.tags for r in study.runs)
    assert set(study.steps) == set(STEPS) and len(study.runs) == 4 + 6 + len(VARIANTS)
    root = study.steps["warmstart"].info.run_id
    parents = {r.info.run_id: r.data.tags.get("mlflow.parentRunId") for r in study.runs}
    assert parents[root] is None
    assert {parents[study.steps[s].info.run_id] for s in ("noising", "subset_training", "similarity")} == {root}
    assert sorted(study.donors) == [f"donor {i} {noise}" for i, noise in enumerate(NOISES, 1)]
    assert {parents[r.info.run_id] for r in study.donors.values()} == {study.steps["subset_training"].info.run_id}
    assert sorted(study.variants) == sorted(VARIANTS)
    assert {parents[r.info.run_id] for r in study.variants.values()} == {root}


def test_steps_say_what_they_are_and_which_runs_they_were_made_from(study):
    upstream = {
        "noising": [],
        "subset_training": ["noising"],
        "similarity": ["subset_training"],
        "warmstart": ["noising", "subset_training", "similarity"],
    }
    for name, run in study.steps.items():
        tags = run.data.tags
        found = {k: v for k, v in tags.items() if k.startswith("cnnsim.upstream.")}
        assert found == {f"cnnsim.upstream.{n}": study.steps[n].info.run_id for n in upstream[name]}
        assert re.fullmatch("[0-9a-f]{64}", tags["cnnsim.fingerprint"])
        assert tags["cnnsim.device"] in ("cpu", "gpu") and tags["cnnsim.version"]
        assert tags["mlflow.note.content"] and "nan" not in tags["mlflow.note.content"].lower()
    assert len({r.data.tags["cnnsim.fingerprint"] for r in study.steps.values()}) == 4


def test_parameters_are_logged_as_the_user_wrote_them_and_config_json_has_what_was_used(study, small_mnist):
    root = study.steps["warmstart"]
    assert root.data.params["learning_rate"] == "1e-3"
    for name, run in study.steps.items():
        config = json.loads(file_of(run, "config.json").read_text())
        used = Study(dataset=str(small_mnist), repeats=2, epochs=1, batch_size=8).values()
        names = {f.name for f in PIPELINE.parameters_of(name)}
        assert {k: config[k] for k in names} == {k: used[k] for k in names}
        assert set(run.data.params) == set(config) >= names
        assert (run.data.params["repeats"], run.data.params["noises"]) == ("2", ",".join(NOISES))
        assert config["dataset_digest"] == study.dataset.digest[:16]
    for name, run in study.variants.items():
        assert run.data.params["variant"] == name
        assert (run.data.params["measure"], run.data.params["scheme"]) == PARTS[name]


def test_the_dataset_is_an_input_of_the_noising_run(study):
    (logged,) = study.steps["noising"].inputs.dataset_inputs
    assert logged.dataset.digest == study.dataset.digest[:16]


# --- artifacts -------------------------------------------------------------------------------------------------------


def test_every_repeat_is_stored_and_read_without_pickle(study):
    for name, run in study.steps.items():
        files = sorted(file_of(run, "repeats").iterdir())
        assert [f.name for f in files] == ["repeat_001.npz", "repeat_002.npz"]
        for file in files:
            with np.load(file, allow_pickle=False) as arrays:
                assert all(array.dtype != object for array in arrays.values())
            assert isinstance(from_npz(PIPELINE[name].code.Result, file.read_bytes()), PIPELINE[name].code.Result)


def test_repeats_are_replicates_not_copies(study):
    for name in STEPS:
        first, second = (file_of(study.steps[name], f"repeats/repeat_00{r}.npz").read_bytes() for r in (1, 2))
        assert first != second


def test_figures_are_images_and_tables_are_there_twice(study):
    figures, tables = {}, {}
    for name, run in study.steps.items():
        figures[name] = {f.name for f in file_of(run, "figures").iterdir()}
        for file in file_of(run, "figures").iterdir():
            assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and file.stat().st_size > 5000
        tables[name] = {f.name for f in file_of(run, "tables").iterdir()}
        for table in {Path(t).stem for t in tables[name]}:
            stored = json.loads(file_of(run, f"tables/{table}.json").read_text(), parse_constant=pytest.fail)
            full = table_of(run, table)
            assert stored["columns"] == list(full)
            assert len(stored["data"]) == len(next(iter(full.values()))) > 0
    assert figures["noising"] == {"noise_examples.png"}
    assert {"learning_curves.png", "accuracy_by_variant.png", "kept_pearson.png"} <= figures["warmstart"]
    assert {"differences.png", "steps_to_reach.png", "collapses.png", "gradient_norms.png"} <= figures["warmstart"]
    assert {"pair_counts.png", "extreme_pairs.png", "score_cosine.png", "null_cosine.png"} <= figures["similarity"]
    for name, expected in TABLES.items():
        assert tables[name] == {f"{table}.{kind}" for table in expected for kind in ("json", "csv")}


def test_donors_and_variants_have_their_filters_in_their_root_as_picture_and_numbers(study):
    donors = [repeat_of(study.steps["subset_training"], r) for r in (1, 2)]
    for d, noise in enumerate(NOISES):
        run = study.donors[f"donor {d + 1} {noise}"]
        assert file_of(run, "filters.png").read_bytes().startswith(b"\x89PNG")
        with np.load(file_of(run, "filters.npz"), allow_pickle=False) as filters:
            assert {k: v.shape for k, v in filters.items()} == {"conv1": (2, 2, 3, 3), "conv2": (2, 8, 3, 3)}
            for r in range(2):
                np.testing.assert_array_equal(filters["conv1"][r, 1], donors[r].weights["conv1/kernel"][d, :, :, 0, 1])
    for v, name in enumerate(VARIANTS):
        run = study.variants[name]
        assert file_of(run, "filters.png").read_bytes().startswith(b"\x89PNG")
        with np.load(file_of(run, "filters.npz"), allow_pickle=False) as filters:
            assert set(filters) == {f"{when}_conv{layer}" for when in ("initial", "final") for layer in (1, 2)}
            for when in ("initial", "final"):
                weights = getattr(study.warmstart[0], when)["conv1/kernel"][v]
                np.testing.assert_array_equal(filters[f"{when}_conv1"][0, 0], weights[:, :, 0, 0])


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_table_of_variants_is_what_scipy_makes_of_the_stored_repeats(study):
    table = table_of(study.steps["warmstart"], "variants")
    accuracy = np.stack([r.test_accuracy[:, -1] for r in study.warmstart], 1).astype(np.float64)
    loss = np.stack([r.epoch_loss[:, -1] for r in study.warmstart], 1).astype(np.float64)
    assert table["variant"] == VARIANTS
    for columns, values in (("accuracy {} %", accuracy), ("train loss {}", loss)):
        for key, expected in (("mean", values.mean(1)), ("min", values.min(1)), ("max", values.max(1))):
            np.testing.assert_allclose(np.float64(table[columns.format(key)]), expected, rtol=1e-9)
        sd = table[columns.format("sd").removesuffix(" %")]
        np.testing.assert_allclose(np.float64(sd), values.std(1, ddof=1), rtol=1e-9)
    compared = ("difference (points)", "median difference (points)")
    compared += ("t CI low", "t CI high", "t test p", "Wilcoxon p", "sign-flip p")
    assert {table[c][0] for c in compared} == {""}
    assert {p for c in ("CI low", "CI high") for p in table[c]} == {""}  # a bootstrap of two values says nothing
    for v in range(1, len(VARIANTS)):
        difference = accuracy[v] - accuracy[0]
        assert float(table["difference (points)"][v]) == pytest.approx(difference.mean(), abs=1e-8)
        assert float(table["median difference (points)"][v]) == pytest.approx(np.median(difference), abs=1e-8)
        flipped = stats.permutation_test((difference,), np.mean, permutation_type="samples").pvalue
        assert float(table["sign-flip p"][v]) == pytest.approx(flipped)
        if difference[0] != difference[1]:
            test = stats.ttest_rel(accuracy[v], accuracy[0])
            interval = test.confidence_interval(0.95)
            expected = [test.pvalue, interval.low, interval.high, stats.wilcoxon(difference).pvalue]
            found = [float(table[c][v]) for c in ("t test p", "t CI low", "t CI high", "Wilcoxon p")]
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_table_of_donors_is_the_mean_of_the_stored_repeats(study):
    table = table_of(study.steps["subset_training"], "donor_accuracy")
    accuracy = np.stack([repeat_of(study.steps["subset_training"], r).test_accuracy for r in (1, 2)]).astype(float)
    assert list(table) == ["donor", *(f"{name} {what}" for name in ("clean", *NOISES) for what in ("%", "sd"))]
    assert table.pop("donor") == NOISES
    columns = np.float64(list(table.values())).T
    np.testing.assert_allclose(columns[:, ::2], accuracy.mean(0), rtol=1e-9)
    np.testing.assert_allclose(columns[:, 1::2], accuracy.std(0, ddof=1), rtol=1e-6, atol=1e-9)


def test_metrics_named_by_repeat_have_a_value_per_repeat(study):
    for v, name in enumerate(VARIANTS):
        found = history(study.client, study.variants[name], "accuracy/per_repeat_pct")
        assert found == {r: pytest.approx(s.test_accuracy[v, -1], abs=1e-5) for r, s in enumerate(study.warmstart, 1)}
    donors = [repeat_of(study.steps["subset_training"], r) for r in (1, 2)]
    for d, noise in enumerate(NOISES):
        run = study.donors[f"donor {d + 1} {noise}"]
        for metric, column in (("accuracy/clean_per_repeat_pct", 0), ("accuracy/own_noise_per_repeat_pct", 1 + d)):
            found = history(study.client, run, metric)
            assert found == {r: pytest.approx(x.test_accuracy[d, column], abs=1e-5) for r, x in enumerate(donors, 1)}
        assert list(history(study.client, run, "curves/train_loss")) == [1]


def test_metrics_named_curves_have_the_batch_as_their_step_and_end_in_the_mean_accuracy(study):
    for v, name in enumerate(VARIANTS):
        for metric in ("test_accuracy_pct", "test_loss", "train_loss"):
            assert sorted(history(study.client, study.variants[name], f"curves/{metric}")) == BATCHES
        curve = history(study.client, study.variants[name], "curves/test_accuracy_pct")
        final = np.mean([r.test_accuracy[v, -1] for r in study.warmstart], dtype=np.float64)
        assert curve[BATCHES[-1]] == pytest.approx(final, abs=1e-5)
        assert study.variants[name].data.metrics["accuracy/mean_pct"] == pytest.approx(final, abs=1e-5)


def test_variants_runs_say_what_their_networks_look_like_inside_and_do_on_every_test_set(study):
    for v, name in enumerate(VARIANTS):
        metrics = study.variants[name].data.metrics
        for when, which in enumerate(("start", "end")):
            expected = np.mean([r.dead[when, v, :3].sum() for r in study.warmstart])
            assert metrics[f"inside/dead_units_at_{which}"] == pytest.approx(expected, abs=1e-5)
        for d, noise in enumerate(NOISES):
            expected = np.mean([r.noise_accuracy[v, d] for r in study.warmstart], dtype=np.float64)
            assert metrics[f"accuracy/test_on_{noise}_pct"] == pytest.approx(expected, abs=1e-5)
        norms = history(study.client, study.variants[name], "inside/gradient_norm")
        expected = np.mean([np.linalg.norm(r.gradient_norms[v], axis=-1) for r in study.warmstart], 0)
        assert norms == pytest.approx(dict(enumerate(expected, 1)), abs=1e-5)
        assert study.variants[name].data.tags["mlflow.runColor"].startswith("#")


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_every_step_says_what_its_repeats_cost_or_why_nobody_knows(study):
    for run in study.steps.values():
        metrics, how = run.data.metrics, run.data.tags["cnnsim.cost"]
        assert metrics["cost/seconds"] > 0
        measured = {key for key in ("cost/energy_kwh", "cost/co2_kg") if key in metrics}
        if how.startswith("not measured: "):
            assert not measured
        else:
            assert len(measured) == 2 and min(metrics[key] for key in measured) >= 0
            assert "processor" in how and "memory" in how and "split over the steps by computing time" in how
        assert run.data.params["country"] == "world"


def test_metering_leaves_no_files(study):
    left = [p.name for p in Path(study.environment["HOME_OF_TEST"]).rglob("*")] + [p.name for p in ROOT.iterdir()]
    assert not [name for name in left if "emissions" in name or "codecarbon" in name]


# --- the report ------------------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(study):
    return Tags(file_of(study.steps["warmstart"], "report.html").read_text("utf-8"))


def test_a_warm_starts_report_answers_and_shows_the_tables_and_figures_of_all_steps(study, page):
    assert "The network has 3,418 weights, of which 90 are the filters of its Conv2D layers." in page.text
    answer = re.search(r"^- Does it end better\? (2 repeats cannot tell, .*)$", study.ended.stdout, re.MULTILINE)[1]
    assert answer in page.text.replace("<wbr>", "").replace("\N{NO-BREAK SPACE}", " ")
    table = table_of(study.steps["warmstart"], "variants")
    for mean, sd in zip(table["accuracy mean %"], table["accuracy sd"], strict=True):
        assert f"{float(mean):.2f} ± {float(sd):.2f}" in page.text
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    # Of the warm start 10, of noises, donors, pairs and layers 1 each; 2 per measure, and the most alike filters.
    assert len(figures) == 10 + 4 + 2 * len(MEASURES) + 1
    assert all(attributes.get("role") == "img" for attributes in figures)
    for words in ("The donors", "Which pairs are chosen", "Energy and CO2"):
        assert words in page.text


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def versions(study):
    """The registered version of every variant by its alias, as the first run left them."""
    return {v: study.client.get_model_version_by_alias("cnnsim_warmstart", v.replace("+", "_")) for v in VARIANTS}


def median_repeat(study, v):
    """Return the repeat (from 1) with the median accuracy; of two, the one with the lower."""
    final = [r.test_accuracy[v, -1] for r in study.warmstart]
    return 1 + int(np.argsort(final, kind="stable")[0])


def test_every_variant_is_a_version_of_one_registered_model(study, versions):
    assert [m.name for m in study.client.search_registered_models()][:1] == ["cnnsim_warmstart"]
    for v, name in enumerate(VARIANTS):
        version = versions[name]
        final = np.float64([r.test_accuracy[v, -1] for r in study.warmstart])
        assert version.run_id == study.variants[name].info.run_id
        assert version.tags == {
            **{
                "variant": name,
                "measure": PARTS[name][0],
                "level": "1",
                "seed": "0",
                "repeats": "2",
            },
            **{"scheme": PARTS[name][1], "dataset": study.dataset.name, "cnn": "reference"},
            **{"accuracy_mean": f"{final.mean():.2f}", "accuracy_sd": f"{final.std(ddof=1):.2f}"},
        }
        first_line = version.description.splitlines()[0]
        assert first_line.startswith(f"{name}: {final.mean():.2f} ± ")
        assert f"of repeat {median_repeat(study, v)}, the lower of the two with middle accuracies" in first_line
        assert "pixel values 0 to 255" in version.description
        assert study.variants[name].data.tags["cnnsim.shown_repeat"] == str(median_repeat(study, v))


def test_models_hold_no_pickle_and_need_no_tensorflow_addons(study, versions):
    for version in versions.values():
        uri = study.client.get_model_version_download_uri("cnnsim_warmstart", version.version)
        folder = Path(uri.removeprefix("file://"))
        files = [f for f in folder.rglob("*") if f.is_file()]
        assert {"MLmodel", "requirements.txt", "model.h5"} <= {f.name for f in files}
        for file in files:
            assert file.suffix not in (".pkl", ".pickle", ".cloudpickle", ".dill"), file
            assert not file.read_bytes().startswith(b"\x80"), file  # how a pickle begins
        requirements = (folder / "requirements.txt").read_text()
        assert "tensorflow==2.15.1" in requirements and "addons" not in requirements


LOADING = """
import os, sys
sys.modules["tensorflow_addons"] = None  # importing it is an error
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import numpy as np
import mlflow
import mlflow.tensorflow
from cnnsim_tf.models import build
from cnnsim_tf.datasets import to_unit

given, result = np.load(sys.argv[1]), {}
for name in given["names"]:
    uri = f"models:/cnnsim_warmstart@{name.replace('+', '_')}"
    keras_model, function = mlflow.tensorflow.load_model(uri), mlflow.pyfunc.load_model(uri)
    reference = build("reference", 28, 10)
    reference.set_weights([given[f"{name}.{i}"] for i in range(8)])
    pixels = given["images"].astype(np.float32)[..., None]
    result[f"{name}.keras"] = keras_model(pixels).numpy()
    result[f"{name}.reference"] = reference(to_unit(given["images"])[..., None]).numpy()
    result[f"{name}.pyfunc"] = np.asarray(function.predict(pixels))
    signature = function.metadata.signature
    tensors = [*signature.inputs, *signature.outputs]
    result[f"{name}.signature"] = str([(t.type.name, t.shape) for t in tensors])
    result[f"{name}.example"] = np.asarray(function.input_example)
assert not [m for m in sys.modules if m.startswith("tensorflow_addons.")]
np.savez(sys.argv[2], **result)
"""


@pytest.fixture(scope="module")
def loaded(study, tmp_path_factory):
    """Predictions of the registered models in a process that cannot import tensorflow-addons."""
    folder = tmp_path_factory.mktemp("loaded")
    weights = {
        f"{name}.{i}": w[v]
        for v, name in enumerate(VARIANTS)
        for i, w in enumerate(study.warmstart[median_repeat(study, v) - 1].final.values())
    }
    np.savez(folder / "given.npz", names=np.array(VARIANTS), images=study.dataset.x_test, **weights)
    ended = subprocess.run(
        [sys.executable, "-c", LOADING, str(folder / "given.npz"), str(folder / "result.npz")],
        cwd=ROOT,
        env=study.environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    with np.load(folder / "result.npz", allow_pickle=False) as result:
        return dict(result)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_predicts_from_pixels_what_the_stored_weights_predict_from_scaled_images(study, loaded, name):
    reference = loaded[f"{name}.reference"]
    assert reference.shape == (200, 10) and reference.std() > 0
    np.testing.assert_array_equal(loaded[f"{name}.keras"], reference)
    np.testing.assert_allclose(loaded[f"{name}.pyfunc"], reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_has_a_signature_and_an_input_example(study, loaded, name):
    assert str(loaded[f"{name}.signature"]) == "[('float32', (-1, 28, 28, 1)), ('float32', (-1, 10))]"
    example = loaded[f"{name}.example"]
    np.testing.assert_array_equal(example[..., 0], study.dataset.x_test[: len(example)])
    assert example.dtype == np.float32


def test_a_served_model_answers_as_the_loaded_one(study, loaded):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["mlflow", "models", "serve", "-m", "models:/cnnsim_warmstart@cosine", "--env-manager", "local"]
    images = study.dataset.x_test[:5, ..., None].tolist()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps({"inputs": images}).encode(),
        {"Content-Type": "application/json"},
    )
    server = subprocess.Popen(
        [*command, "-p", port, "-h", "127.0.0.1"],
        cwd=study.environment["HOME_OF_TEST"],
        env=study.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        answer, began = None, time.monotonic()
        while answer is None and time.monotonic() - began < 90 and server.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                answer = json.loads(urllib.request.urlopen(request, timeout=30).read())
            time.sleep(0.5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert answer, "the server did not come up"
    np.testing.assert_allclose(answer["predictions"], loaded["cosine.pyfunc"][:5], rtol=0, atol=1e-5)


# --- again -----------------------------------------------------------------------------------------------------------


def test_the_same_command_again_computes_nothing_and_shows_the_same(study, small_mnist):
    before = runs_of(study.client)
    registered = study.client.search_model_versions("name='cnnsim_warmstart'")
    again = mlflow_run("warmstart", study.environment, dataset=small_mnist, **OPTIONS)
    assert again.returncode == 0, again.stderr
    assert again.stdout == study.ended.stdout
    assert "warm start: re-used the finished run" in again.stderr and "100 %" not in again.stderr
    known = {r.info.run_id for r in before}
    (new,) = [r for r in runs_of(study.client) if r.info.run_id not in known]
    assert new.info.status == "FINISHED"
    assert new.data.tags["cnnsim.reused"] == study.steps["warmstart"].info.run_id
    assert "cnnsim.fingerprint" not in new.data.tags
    assert len(study.client.search_model_versions("name='cnnsim_warmstart'")) == len(registered)


@pytest.fixture
def inside(study, enter, capfd, monkeypatch):
    """Run an entry point on the study's store in this process; return its exit code, stdout, stderr and new runs."""
    monkeypatch.chdir(study.environment["HOME_OF_TEST"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.environment["MLFLOW_TRACKING_URI"])
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)

    def call(step, **parameters):
        before = {r.info.run_id for r in runs_of(study.client)}
        code = enter(step, *options_of(**parameters))
        new = [r for r in runs_of(study.client) if r.info.run_id not in before]
        steps = {r.data.tags["cnnsim.step"]: r for r in new if r.data.tags["cnnsim.role"] == "step"}
        return types.SimpleNamespace(code=code, new=new, steps=steps, said=capfd.readouterr())

    return call


def test_the_same_images_under_another_name_are_the_same_study(study, inside, small_mnist, tmp_path):
    shutil.copy(small_mnist, tmp_path / "renamed.npz")
    same = inside("noising", dataset=tmp_path / "renamed.npz", repeats=2)
    assert same.code == 0 and same.new == []
    assert "re-used the finished run" in same.said.err


# --- stopped ---------------------------------------------------------------------------------------------------------


def test_a_study_that_is_stopped_while_it_trains_ends_within_seconds_and_its_runs_are_killed(
    users_environment, new_store, tiny_mnist, tmp_path
):
    given = {"dataset": tiny_mnist, "repeats": 1, "epochs": 100_000, "noises": "blur,rotation"}
    uri = new_store(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.warmstart", *options_of(**given)],
        cwd=ROOT,
        env=users_environment | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "study"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a script, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        said = ""
        while not said.startswith("warm start"):  # the progress bar's first line
            said = process.stderr.readline()
            assert said, "it ended"
        time.sleep(2)  # by when donors are trained
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        said += process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert time.monotonic() - began < 10
    assert process.returncode == 130 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("stopped: what is stored stays")
    runs = runs_of(MlflowClient(uri))
    assert {r.data.tags["cnnsim.step"]: r.info.status for r in runs} == dict.fromkeys(STEPS, "KILLED")
