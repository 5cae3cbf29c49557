"""Whether the environment has what a study imports; if it does not, a sentence says so, and how to get a whole one.

An installation that was stopped leaves half an environment, which MLflow then takes for a whole one. Nothing that has
to be installed is imported here, and Pythons from 3.6 on can read it, to say which one the study needs.
"""

import os
import re
import shlex
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (3, 11)


def check() -> None:
    """End the process with a sentence if this is another Python or lacks a direct requirement.

    What turns out to be missing only when it is imported ends the process with such a sentence, too.
    """
    if sys.version_info[:2] != PYTHON:
        sys.exit("error: " + _sentence("", False))
    if sys.flags.optimize > 1:
        sys.exit("error: this Python drops docstrings, without which TensorFlow does not start: unset PYTHONOPTIMIZE")
    _leave_out_users_packages()
    lacking = missing()
    if lacking:
        sys.exit("error: " + _sentence("it lacks " + ", ".join(lacking)))
    sys.excepthook = _end


def _leave_out_users_packages() -> None:
    """Keep what `pip install --user` put into the home out of a conda environment, where it would come first."""
    import site

    if site.ENABLE_USER_SITE and (Path(sys.prefix) / "conda-meta").is_dir() and not _is_base():
        sys.path[:] = [folder for folder in sys.path if folder != site.getusersitepackages()]
        os.environ["PYTHONNOUSERSITE"] = "1"  # for the processes that compute


def _is_base() -> bool:
    return (Path(sys.prefix) / "condabin").is_dir()


def missing() -> "list[str]":
    """Return which of pyproject.toml's requirements of every platform are not installed, or only in part."""
    import importlib.util
    import tomllib

    # Not by importlib.metadata, whose import takes ten times as long as this.
    entries = [entry for folder in map(Path, sys.path) if folder.is_dir() for entry in folder.iterdir()]
    described = {
        re.sub(r"[-_.]+", "-", entry.name.split("-")[0]).lower()
        for entry in entries
        if entry.suffix in (".dist-info", ".egg-info")
    }
    lacking = []
    for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]:
        name = requirement.split("==")[0]
        if ";" not in requirement:
            spec = importlib.util.find_spec(name.replace("-", "_"))
            # Without an origin it is a folder that lacks its __init__.py.
            if spec is None or spec.origin is None or name not in described:
                lacking.append(name)
    return lacking


def incomplete(error: BaseException) -> "str | None":
    """Return the sentence for an error that comes from a package which is missing or installed in part, else None.

    Modules of the user's own, and what they import, are none of the environment's business.
    """
    if isinstance(error, SyntaxError):  # a file that was written in part
        return _sentence(f"{error.filename} is damaged") if _installed(error.filename or "") else None
    name = getattr(error, "name", None) or ""
    known = {"cnnsim_tf", "entrypoints", *sys.stdlib_module_names}
    if not isinstance(error, ImportError) or name.split(".")[0] in known or _in_users_code(error.__traceback__):
        return None
    if isinstance(error, ModuleNotFoundError) and name:
        return _sentence(f"it lacks {name}")
    return _sentence(f"{name or 'a package'} cannot be imported ({' '.join(str(error).split())})")


def _end(kind: type, error: BaseException, trace: "TracebackType | None") -> None:
    """Print the sentence for an uncaught error that means an incomplete environment, else what Python would print."""
    sentence = incomplete(error)
    if sentence:
        print("error: " + sentence, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _sentence(why: str, right_python: bool = True) -> str:
    """Return what is wrong with the environment, and the remedy that fits it."""
    # An activated environment that has no Python yet leaves the command to whichever Python comes next on the PATH.
    activated = [Path(os.environ[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if os.environ.get(name)]
    empty = [folder for folder in activated if folder.is_dir() and not (folder / "bin" / "python").exists()]
    prefix = empty[0] if empty else Path(sys.prefix)
    if empty:
        why = "it has no Python"
    elif not right_python:
        why = "it has Python {}.{}.{}, and the study needs {}.{}".format(*sys.version_info[:3], *PYTHON)
    conda = (prefix / "conda-meta").is_dir()
    make_another = "make one (`make .venv`), activate it (`source .venv/bin/activate`)"
    again = "run the same command again"
    if not empty and ((sys.prefix == sys.base_prefix and not conda) or _is_base()):
        return f"{sys.executable} has no environment of this project ({why}): {make_another} and {again}"
    remove = f"`conda env remove -p {shlex.quote(str(prefix))}`" if conda else f"`rm -rf {shlex.quote(str(prefix))}`"
    mlflows = Path(os.environ.get("MLFLOW_ENV_ROOT") or Path.home() / ".mlflow" / "envs")
    if re.match("mlflow-[0-9a-f]{40}", prefix.name) or mlflows.resolve() in prefix.resolve().parents:
        remedy = f"remove it ({remove}) and {again}, which makes it anew"
    elif prefix.resolve() == (ROOT / ".venv").resolve():
        remedy = f"remove it (`rm -rf {shlex.quote(str(ROOT / '.venv'))}`), make it anew (`make .venv`) and {again}"
    elif right_python and not empty:
        remedy = (
            f"install what it lacks (`python -m pip install -r requirements.lock`) or remove it ({remove}) and "
            f"{make_another}, then {again}"
        )
    else:
        remedy = f"remove it ({remove}) or leave it, {make_another} and {again}"
    return f"the environment {prefix} is incomplete ({why}): {remedy}"


def _installed(file: str) -> bool:
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def _in_users_code(trace: "TracebackType | None") -> bool:
    """Tell whether an error came through a file that is neither Python's nor installed nor the project's."""
    known = (Path(os.__file__).parent, ROOT / "cnnsim_tf", ROOT / "entrypoints")
    while trace:
        file = trace.tb_frame.f_code.co_filename
        # Compiled modules name sources that are not there.
        if Path(file).is_file() and not _installed(file) and not set(known) & set(Path(file).parents):
            return True
        trace = trace.tb_next
    return False
