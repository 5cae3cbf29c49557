"""The steps as data: what each needs, its parameters, fingerprints, and names that are looked up before it runs."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.pipeline import PIPELINE, Pipeline, Step, registry_of
from cnnsim_tf.schemes import SCHEMES
from cnnsim_tf.study import Study, Sweep

ORDER = ["noising", "subset_training", "similarity", "warmstart"]
PARAMETERS = {f.name: f for f in dataclasses.fields(Study)}
DIGESTS = {"dataset": "d" * 64}

NAMED = {"dataset": "noising", "donors": "similarity", "pixels": "similarity"}
# The first step whose results a parameter changes; those of all later steps then change too. None: of no step.
MATTERS_FROM = {
    **dict.fromkeys(NAMED),  # names or paths; what matters is the digest of their content
    "noises": "noising",
    "level": "noising",
    "seed": "noising",
    "repeats": "noising",
    "cnn": "subset_training",
    "epochs": "subset_training",
    "batch_size": "subset_training",
    "learning_rate": "subset_training",
    "measures": "similarity",
    "layer_measures": "similarity",
    "align": "similarity",
    "target": "warmstart",
    "target_epochs": "warmstart",
    "target_images": "warmstart",
    "variants": "warmstart",
    "registered_model": None,
    "device": None,
    "engine": None,
    "scheduler": None,
    "country": None,
    "fresh": None,
}
ANOTHER = {
    "dataset": "fashion_mnist",
    "noises": ("blur", "rotation"),
    "level": 0.5,
    "seed": 1,
    "repeats": 6,
    "cnn": "my.own:network",
    "epochs": 7,
    "target_epochs": 2,
    "batch_size": 65,
    "learning_rate": 0.002,
    "donors": ("a.keras", "b.keras"),
    "pixels": "0..1",
    "measures": ("cosine", "frobenius", "pearson"),
    "layer_measures": ("linear_cka",),
    "align": "network",
    "variants": ("cosine", "random_init"),
    "target": "mixed",
    "target_images": 600,
    "registered_model": "another",
    "device": "cpu",
    "engine": "keras",
    "scheduler": "tcp://head:8786",
    "country": "NLD",
    "fresh": True,
}
# The first step that a setting means something to.
SETTINGS = {
    "registered_model": "warmstart",
    "device": "subset_training",
    "engine": "subset_training",
    "scheduler": "noising",
    "country": "noising",
    "fresh": "noising",
}


def matters(name, step):
    first = MATTERS_FROM[name]
    return first is not None and ORDER.index(first) <= ORDER.index(step)


def fingerprint(study, step, digests=DIGESTS, pipeline=PIPELINE, **how):
    return pipeline.fingerprint(study, step, digests, **how)


# --- the steps -------------------------------------------------------------------------------------------------------


def test_the_steps_stand_in_the_order_in_which_data_flows_and_the_last_one_is_what_they_are_for():
    assert [step.name for step in PIPELINE] == ORDER
    assert PIPELINE.last is PIPELINE["warmstart"]
    for step in PIPELINE:
        assert set(step.needs) <= set(ORDER[: ORDER.index(step.name)])


def toy(name, *needs):
    return Step(name, name, version=1, code_at="json", main_figure="", needs=needs)


def test_a_step_comes_after_what_it_needs_directly_or_not_and_after_nothing_else():
    pipeline = Pipeline([toy("a"), toy("b"), toy("c", "a"), toy("d", "b"), toy("e", "c"), toy("f", "e", "d")], ())
    found = {step.name: "".join(s.name for s in pipeline.up_to(step.name)) for step in pipeline}
    assert found == {"a": "a", "b": "b", "c": "ac", "d": "bd", "e": "ace", "f": "abcdef"}


@pytest.mark.parametrize("step", PIPELINE, ids=ORDER)
def test_every_steps_module_has_the_names_that_a_step_has(step):
    code = step.code
    assert dataclasses.is_dataclass(code.Result)
    names = {"compute", "passes", "check", "summarise"} | ({"models"} if step.has_models else set())
    assert all(callable(getattr(code, name)) for name in names)
    assert hasattr(code, "models") == step.has_models


@pytest.mark.parametrize("step", PIPELINE, ids=ORDER)
def test_child_runs_are_named_after_the_donors_or_variants(step):
    study = Study(noises=("blur", "rotation"), variants=("random_init", "cosine"))
    names = {"donor": ["donor 1 blur", "donor 2 rotation"], "variant": ["random_init", "cosine"], "": []}
    assert step.child_names(study) == names[step.child_role]
    assert step.child_role == {"subset_training": "donor", "warmstart": "variant"}.get(step.name, "")


# --- parameters ------------------------------------------------------------------------------------------------------


def test_the_tables_of_what_matters_know_every_parameter():
    assert set(MATTERS_FROM) == set(ANOTHER) == set(PARAMETERS)
    assert set(SETTINGS) == {name for name, first in MATTERS_FROM.items() if not first} - set(NAMED)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_says_its_step_whether_it_is_a_setting_and_what_it_is(name):
    said = PARAMETERS[name].metadata
    assert said["step"] in ORDER and said["help"]
    assert (said["step"], said["setting"]) == (
        (SETTINGS[name], True) if name in SETTINGS else (MATTERS_FROM[name] or NAMED[name], False)
    )


def test_a_sweeps_own_parameters_belong_to_no_step():
    assert {f.metadata["step"] for f in dataclasses.fields(Sweep)} == {"sweep"}


@pytest.mark.parametrize("step", ORDER)
def test_a_steps_parameters_are_those_that_matter_and_its_settings_in_the_studys_order(step):
    wanted = [f for n, f in PARAMETERS.items() if ORDER.index(f.metadata["step"]) <= ORDER.index(step)]
    assert PIPELINE.parameters_of(step) == wanted
    names = {f.name for f in wanted}
    assert names >= {n for n in PARAMETERS if matters(n, step)} | {"dataset", "scheduler", "country", "fresh"}


def test_parameters_of_steps_that_a_step_does_not_need_mean_nothing_to_it():
    pipeline = Pipeline([toy("noising"), toy("subset_training"), toy("similarity", "noising")], ())
    steps = {f.metadata["step"] for f in pipeline.parameters_of("similarity")}
    assert steps == {"noising", "similarity"}


# --- fingerprints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PARAMETERS.keys() - {"donors", "pixels"}))  # see test_own_donors.py
def test_a_fingerprint_changes_with_what_matters_to_its_step_and_with_nothing_else(name):
    changed = dataclasses.replace(Study(), **{name: ANOTHER[name]})
    for step in ORDER:
        assert (fingerprint(changed, step) != fingerprint(Study(), step)) == matters(name, step)
        of_repeats = [fingerprint(study, step, of_repeats=True) for study in (changed, Study())]
        assert (of_repeats[0] != of_repeats[1]) == (name != "repeats" and matters(name, step))


@pytest.mark.parametrize("step", ORDER)
@pytest.mark.parametrize("of_repeats", [False, True])
def test_fingerprints_follow_the_datasets_content(step, of_repeats):
    prints = {fingerprint(Study(), step, {"dataset": d}, of_repeats=of_repeats) for d in ("1" * 64, "2" * 64)}
    assert len(prints) == 2


@pytest.mark.parametrize("step", ORDER)
@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("noises my.own:noise", "noising"),
        ("cnn my.own:network", "subset_training"),
        ("measures my.own:measure", "similarity"),
        ("layer_measures my.own:measure", "similarity"),
        ("variants my.own:scheme", "warmstart"),
    ],
)
def test_fingerprints_follow_the_source_of_a_users_function_from_its_step_on(key, first, step):
    prints = {fingerprint(Study(), step, DIGESTS | {key: source}) for source in ("1" * 64, "2" * 64)}
    assert (len(prints) == 2) == (ORDER.index(first) <= ORDER.index(step))


@pytest.mark.parametrize("raised", ORDER)
def test_a_step_whose_version_is_raised_makes_its_own_and_later_results_anew(raised):
    steps = [dataclasses.replace(s, version=s.version + (s.name == raised)) for s in PIPELINE]
    newer = Pipeline(steps, PIPELINE.software)
    for step in ORDER:
        changed = fingerprint(Study(), step, pipeline=newer) != fingerprint(Study(), step)
        assert changed == (ORDER.index(raised) <= ORDER.index(step))


def test_a_step_has_another_fingerprint_where_it_needs_another_step_or_has_another_name():
    one = Pipeline([toy("a"), toy("b"), toy("c", "a")], ())
    other = Pipeline([toy("a"), toy("b"), toy("c", "b"), toy("d", "a")], ())
    prints = [fingerprint(Study(), name, pipeline=p) for p, name in ((one, "c"), (other, "c"), (other, "d"))]
    assert len({*prints}) == 3
    assert fingerprint(Study(), "b", pipeline=one) == fingerprint(Study(), "b", pipeline=other)


def test_steps_have_fingerprints_of_their_own_that_are_sha256():
    prints = [fingerprint(Study(), step, of_repeats=r) for step in ORDER for r in (False, True)]
    assert len(set(prints)) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", p) for p in prints)


def test_the_order_of_digests_and_the_spelling_of_a_number_do_not_matter():
    digests = {"dataset": "d", "noises a:b": "x", "noises c:d": "y"}
    turned = dict(reversed(digests.items()))
    assert fingerprint(Study(level=1), "noising", digests) == fingerprint(Study(level=1.0), "noising", turned)


def test_fingerprints_are_equal_in_another_process():
    code = (
        "from cnnsim_tf.pipeline import PIPELINE as p; from cnnsim_tf.study import Study; "
        f"print(*(p.fingerprint(Study(seed=3), s.name, {DIGESTS}, of_repeats=r) for s in p for r in (False, True)))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "0" if os.environ.get("PYTHONHASHSEED") != "0" else "4711"}
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True, text=True
    ).stdout
    assert printed.split() == [fingerprint(Study(seed=3), step, of_repeats=r) for step in ORDER for r in (False, True)]


# --- names -----------------------------------------------------------------------------------------------------------


def like_any_other(*arguments):
    """Stands for a user's function."""


OWN = f"{__name__}:like_any_other"


def test_users_own_functions_have_digests_and_registered_ones_have_none():
    study = Study(noises=("blur", OWN), cnn=OWN, variants=("random_init", f"cosine+{OWN}"))
    assert list(PIPELINE.source_digests("noising", study)) == [f"noises {OWN}"]
    digests = PIPELINE.source_digests("warmstart", study)
    assert list(digests) == [f"noises {OWN}", f"cnn {OWN}", f"variants {OWN}"]
    assert set(map(len, digests.values())) == {64}
    assert PIPELINE.source_digests("warmstart", Study()) == {}
    assert registry_of("variants") is SCHEMES


@pytest.mark.parametrize("changes", [{"cnn": "json:nothing"}, {"variants": ("cosine+json:nothing",)}])
def test_a_users_function_that_is_not_there_is_told_when_its_source_is_looked_for(changes):
    with pytest.raises(ParameterError, match="json:nothing"):
        PIPELINE.source_digests("warmstart", Study(**changes))


def test_what_is_checked_has_its_groups_written_out():
    study = Study(measures=("all",), variants=("published", "one_donor"))
    checked = PIPELINE.checked("warmstart", study)
    assert checked.variants == ("random_init", *checked.measures, "one_donor") and "all" not in checked.measures
    assert dataclasses.replace(checked, measures=study.measures, variants=study.variants) == study
    assert PIPELINE.checked("warmstart", checked) == checked


def test_a_step_is_not_held_up_by_names_that_mean_nothing_to_it():
    study = Study(cnn="referense", layer_measures=("nothing",))
    assert PIPELINE.checked("noising", study) == study


UNKNOWN = {  # by parameter; what the error begins with
    "country": ("NDL", "country is 'NDL'"),
    "measures": (["cosin"], "unknown measure 'cosin': did you mean 'cosine'?"),
    "layer_measures": (["linear_ka"], "unknown layer measure 'linear_ka': did you mean 'linear_cka'?"),
    "noises": (["blur", "rotaton"], "unknown noise 'rotaton': did you mean 'rotation'?"),
    "variants": (["random_init", "cosine+medoidd"], "unknown scheme 'medoidd': did you mean 'medoid'?"),
    "cnn": ("referense", "unknown CNN 'referense': did you mean 'reference'?"),
    "dataset": ("mnits", "unknown dataset 'mnits': did you mean 'mnist'?"),
}
MORE = [  # other ways to be wrong
    ({"variants": ["random_innit"]}, "unknown variant 'random_innit': did you mean 'random_init'?"),
    ({"variants": ["frobenius"], "measures": ["cosine"]}, "the variant 'frobenius' needs the measure 'frobenius'"),
    ({"dataset": "no/such/file.npz"}, "no such file or directory: no/such/file.npz"),
    ({"noises": ["blur", "no_such_module:noise"]}, "cannot import the noise 'no_such_module:noise'"),
]
CHECK = """
import json, sys
from cnnsim_tf.errors import StudyError
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.study import Study
for changes in json.loads(sys.argv[1]):
    said = ""
    try:
        PIPELINE.checked("warmstart", Study(**changes))
    except StudyError as error:
        said = str(error)
    heavy = [m for m in ("tensorflow", "keras", "mlflow", "distributed", "matplotlib", "scipy") if m in sys.modules]
    print(json.dumps([said, heavy]))
"""


def test_unknown_names_are_told_before_what_takes_seconds_is_imported():
    looked_up = {n for n, f in PARAMETERS.items() if {"registry", "check"} & set(f.metadata)}
    assert looked_up == set(UNKNOWN)
    cases = [*(({name: value}, begin) for name, (value, begin) in UNKNOWN.items()), *MORE]
    run = [sys.executable, "-c", CHECK, json.dumps([changes for changes, _ in cases])]
    lines = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for (changes, begin), line in zip(cases, lines, strict=True):
        said, heavy = json.loads(line)
        assert said.startswith(begin), (changes, said)
        assert "\n" not in said and heavy == []


def test_a_module_that_a_step_cannot_import_is_named(tmp_path, monkeypatch):
    package = tmp_path / "steps_of_ours"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "broken.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    step = dataclasses.replace(PIPELINE["noising"], code_at="steps_of_ours.broken")
    with pytest.raises(ImportError, match="a_package_that_nobody_has"):
        _ = step.code
