"""What entry points say in an environment that is incomplete."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoints import environment

ROOT = Path(__file__).parents[1]


def made(folder):
    """Make an environment with Python and nothing else, as a stopped installation leaves it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder


def run(python, words, **variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH")}
    done = subprocess.run(
        [str(python), *words], cwd=ROOT, env=kept | variables, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert done.returncode == 1 and not done.stdout
    return done.stderr.removeprefix("error: ")


def test_an_empty_environment_is_told_by_every_entry_point(tmp_path):
    empty = made(tmp_path / "its own")
    for step in ("noising", "warmstart", "sweep", "report"):
        said = run(empty / "bin" / "python", ["-m", f"entrypoints.{step}"])
        assert said.startswith(f"the environment {empty} is incomplete (it lacks tensorflow")
        assert f"`rm -rf '{empty}'`" in said and "click" in said


def test_an_environment_that_mlflow_made_is_removed_and_made_anew_by_the_same_command(tmp_path):
    mlflows = made(tmp_path / ("mlflow-" + 40 * "a"))
    said = run(mlflows / "bin" / "python", ["-m", "entrypoints.similarity"])
    assert said.endswith(f"remove it (`rm -rf {mlflows}`) and run the same command again, which makes it anew\n")
    (mlflows / "conda-meta").mkdir()
    said = run(mlflows / "bin" / "python", ["-m", "entrypoints.similarity"])
    assert f"`conda env remove -p {mlflows}`" in said
    named = made(tmp_path / "root" / "virtualenvs" / "my name")
    said = run(named / "bin" / "python", ["-m", "entrypoints.similarity"], MLFLOW_ENV_ROOT=str(tmp_path / "root"))
    assert "which makes it anew" in said and f"'{named}'" in said


def test_a_package_that_is_there_in_part_is_lacking(tmp_path):
    python = made(tmp_path / "part") / "bin" / "python"
    site = next((tmp_path / "part" / "lib").glob("python3*/site-packages"))
    for name in ("keras", "scipy"):
        (site / f"{name}-1.0.dist-info").mkdir()
        (site / name).mkdir()
    (site / "scipy" / "__init__.py").touch()
    (site / "mlflow").mkdir()
    (site / "mlflow" / "__init__.py").touch()  # unpacked, not yet described
    said = run(python, ["-m", "entrypoints.noising"])
    lacking = said.split("(it lacks ")[1].split(")")[0].split(", ")
    assert {"keras", "mlflow"} <= set(lacking) and "scipy" not in lacking


def test_packages_in_the_users_home_stay_out_of_a_conda_environment(tmp_path):
    conda = made(tmp_path / "conda")
    (conda / "pyvenv.cfg").write_text((conda / "pyvenv.cfg").read_text().replace("packages = false", "packages = true"))
    version = "python{}.{}".format(*sys.version_info)
    for name in ("keras", "scipy"):
        home = tmp_path / "home" / ".local" / "lib" / version / "site-packages"
        (home / name).mkdir(parents=True)
        (home / name / "__init__.py").touch()
        (home / f"{name}-1.0.dist-info").mkdir()
    home = {"HOME": str(tmp_path / "home"), "PYTHONNOUSERSITE": ""}
    assert "keras" not in run(conda / "bin" / "python", ["-m", "entrypoints.noising"], **home)
    (conda / "conda-meta").mkdir()
    assert "keras" in run(conda / "bin" / "python", ["-m", "entrypoints.noising"], **home)


def test_a_python_without_docstrings_is_told():
    assert "unset PYTHONOPTIMIZE" in run(sys.executable, ["-m", "entrypoints.noising"], PYTHONOPTIMIZE="2")


@pytest.mark.parametrize(
    "broken, words",
    [
        ("sys.modules['cloudpickle'] = None", "it lacks cloudpickle"),
        ("sys.modules['google.protobuf'] = None", "it lacks google.protobuf"),
        ("sys.modules['cycler'] = type(sys)('cycler')", "cycler cannot be imported"),
    ],
)
@pytest.mark.slow
def test_a_package_that_a_package_needs_is_told_when_it_is_missed(tiny_mnist, tmp_path, broken, words):
    code = f"import sys; {broken}; from entrypoints.noising import main; main()"
    store = f"sqlite:///{tmp_path}/m.db"
    said = run(sys.executable, ["-c", code, f"--dataset={tiny_mnist}"], MLFLOW_TRACKING_URI=store)
    assert said.startswith(f"the environment {sys.prefix} is incomplete ({words}") and "run the same command" in said


def test_what_a_users_own_module_lacks_is_not_the_environments(tmp_path, enter_toy, capfd, monkeypatch):
    (tmp_path / "lacking.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/m.db")
    assert enter_toy("noising", "--noises=blur,lacking:own") == 2
    err = capfd.readouterr().err
    assert "a_package_that_nobody_has" in err and "incomplete" not in err
    with pytest.raises(ImportError) as caught:
        importlib.import_module("lacking")
    assert environment.incomplete(caught.value) is None


def test_this_environment_lacks_nothing():
    assert environment.missing() == []
    assert environment.incomplete(ValueError("no")) is None
    assert environment.incomplete(ModuleNotFoundError("No module named 'cnnsim_tf.x'", name="cnnsim_tf.x")) is None
