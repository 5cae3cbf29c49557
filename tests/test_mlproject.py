"""MLproject, conda.yaml and the options against the places where their facts live."""

import dataclasses
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement

from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.study import Study, Sweep
from entrypoints.options import _option, options_of

ROOT = Path(__file__).parents[1]
MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
STEPS = [step.name for step in PIPELINE]
ENTRY_POINTS = {"main": PIPELINE.last.name, **{name: name for name in STEPS}, "sweep": "sweep"}
FIELDS = {f.name: f for f in dataclasses.fields(Study)}
SWEEP_FIELDS = {f.name: f for f in dataclasses.fields(Sweep)}
ALL_FIELDS = FIELDS | SWEEP_FIELDS


def as_text(value):
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else value


def names_of(entry_point):
    """Return the parameters that an entry point should have: a sweep, all of the study's and its own."""
    if entry_point == "sweep":
        return [*FIELDS, *SWEEP_FIELDS]
    return [f.name for f in PIPELINE.parameters_of(entry_point)]


def test_mlproject_has_an_entry_point_per_step_and_one_for_sweeps_and_main_is_warmstart():
    assert set(MLPROJECT["entry_points"]) == set(ENTRY_POINTS)
    assert MLPROJECT["entry_points"]["main"] == MLPROJECT["entry_points"]["warmstart"]
    assert MLPROJECT["conda_env"] == "conda.yaml"


@pytest.mark.parametrize(("entry_point", "step"), ENTRY_POINTS.items())
def test_mlproject_parameters_are_those_of_the_step_with_studys_types_and_defaults(entry_point, step):
    declared = MLPROJECT["entry_points"][entry_point]["parameters"]
    assert set(declared) == set(names_of(step))
    for name, entry in declared.items():
        assert entry["default"] == as_text(ALL_FIELDS[name].default)
        assert entry["type"] == ("float" if ALL_FIELDS[name].type in (int, float) else "string")


@pytest.mark.parametrize(("entry_point", "step"), ENTRY_POINTS.items())
def test_every_mlproject_parameter_reaches_the_command_as_the_option_of_its_name(entry_point, step):
    command = MLPROJECT["entry_points"][entry_point]["command"]
    assert command.startswith(f"python -m entrypoints.{step} ")
    assert re.findall(r"--([a-z-]+) \{(\w+)\}", command) == [(n.replace("_", "-"), n) for n in names_of(step)]


def test_mlproject_says_every_parameter_once():
    said = re.findall(r"^ +(\w+): \{type", (ROOT / "MLproject").read_text(), re.MULTILINE)
    assert sorted(said) == sorted(ALL_FIELDS)


def test_a_sweeps_own_parameters_have_names_that_no_parameter_of_a_study_has():
    assert not set(SWEEP_FIELDS) & set(FIELDS)


@pytest.mark.parametrize("entry_point", [*STEPS, "sweep"])
def test_an_entry_points_options_are_the_parameters_that_mean_something_to_it(entry_point):
    assert [f.name for f in options_of(entry_point)] == names_of(entry_point)


@pytest.mark.parametrize("entry_point", [*STEPS, "sweep"])
def test_every_entry_point_has_a_module_that_is_run_by_its_name(entry_point):
    assert f'command("{entry_point}", ' in (ROOT / "entrypoints" / f"{entry_point}.py").read_text()


@pytest.mark.parametrize("field", ALL_FIELDS.values(), ids=ALL_FIELDS)
def test_options_take_studys_default_and_say_its_help(field):
    option = _option(field)
    assert option.opts == [f"--{field.name.replace('_', '-')}"]
    assert option.default == as_text(field.default)
    assert option.help == field.metadata["help"]


@pytest.mark.parametrize("file", ["conda.yaml", "conda-gpu.yaml"])
def test_conda_files_name_the_dependencies_of_pyproject_with_exact_versions(file):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / file).read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    expected = project["dependencies"]
    if file == "conda-gpu.yaml":
        (with_cuda,) = project["optional-dependencies"]["gpu"]
        expected = [with_cuda if entry.startswith("tensorflow==") else entry for entry in expected]
    assert [entry for entry in pip if not entry.startswith("-")] == expected
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+( ; .+)?", entry) for entry in project["dependencies"])
    python, pip_itself = (entry for entry in conda if isinstance(entry, str))
    assert re.fullmatch(r"python=3\.11\.\d+", python)
    assert re.fullmatch(r"pip=[\d.]+", pip_itself)


def test_readme_lists_every_parameter_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| .+ \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rows == [(name, str(as_text(field.default))) for name, field in FIELDS.items()]


def test_readme_shows_the_table_of_the_default_study():
    table = pd.read_csv(ROOT / "docs/tables/default_variants.csv", index_col="variant")
    shown = re.findall(r"^\| `(\S+)` \| (\S+ ± \S+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [name for name, *_ in shown] == list(table.index)
    for name, accuracy, others in shown:
        row, cells = table.loc[name], [cell.strip().replace("−", "-") for cell in others.split("|")]
        expected = [row[f"accuracy {what} %"] for what in ("median", "min", "max")]
        np.testing.assert_allclose([float(x) for x in accuracy.split(" ± ")], [row.iloc[0], row.iloc[1]], atol=0.0051)
        np.testing.assert_allclose([float(x) for x in cells[:3]], expected, atol=0.0051)
        assert cells[3] == f"{row['collapsed']:.0f} of 20"
        if name != "random_init":
            found = [float(cells[4]), *(float(x) for x in cells[5].split(" to "))]
            expected = row[["difference (points)", "CI low", "CI high"]].astype(float)
            np.testing.assert_allclose(found, expected, atol=0.0051)
            assert cells[6] == (f"{row['Holm p']:.3f}" if row["Holm p"] >= 0.001 else "< 0.001")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-gpu.lock", "requirements-bench.lock"])
def test_lock_files_hold_the_versions_of_pyproject(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {line.split(" ")[0] for line in (ROOT / lock).read_text().splitlines() if "==" in line}
    extras = project["optional-dependencies"]
    assert {entry.split(" ")[0] for entry in [*project["dependencies"], *extras["dev"]]} <= locked
    if lock == "requirements-bench.lock":
        assert {*extras["bench"]} <= locked


@pytest.mark.parametrize("lock", ["requirements-gpu.lock", "requirements-bench.lock"])
def test_larger_environments_have_the_versions_of_the_plain_one(lock):
    plain, larger = (re.findall(r"^\S+==\S+", (ROOT / f).read_text(), re.M) for f in ("requirements.lock", lock))
    assert set(plain) <= set(larger)


MACHINES = {  # sys_platform, platform_machine; what TensorFlow 2.15.1 and tensorflow-addons 0.23 have wheels for
    "Linux x86-64": ("linux", "x86_64", {"tensorflow", "tensorflow-addons", "typeguard"}),
    "Linux ARM": ("linux", "aarch64", {"tensorflow", "tensorflow-cpu-aws"}),
    "macOS ARM": ("darwin", "arm64", {"tensorflow", "tensorflow-addons", "typeguard"}),
    "macOS x86-64": ("darwin", "x86_64", {"tensorflow", "tensorflow-addons", "typeguard"}),
}


@pytest.mark.parametrize(
    "file", ["pyproject.toml", "requirements.lock", "requirements-gpu.lock", "requirements-bench.lock"]
)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_gets_the_packages_that_have_wheels_for_it(file, machine):
    platform, processor, expected = MACHINES[machine]
    text = (ROOT / file).read_text()
    lines = re.findall(r"^[a-z].*==.*", text, re.M)
    if file == "pyproject.toml":
        lines, expected = tomllib.loads(text)["project"]["dependencies"], expected - {"typeguard"}
    there = {"sys_platform": platform, "platform_machine": processor, "platform_python_implementation": "CPython"}
    requirements = [Requirement(line) for line in lines]
    found = {r.name for r in requirements if r.marker is None or r.marker.evaluate(there)}
    of_interest = {"tensorflow", "tensorflow-addons", "tensorflow-cpu-aws", "typeguard"}
    assert found & of_interest == expected
