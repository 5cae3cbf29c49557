"""Commands that show a study, right for the folder and the store that they are said for."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import mlflow

from cnnsim_tf.tracking.patience import shown_uri
from cnnsim_tf.tracking.store import database_path, store_argument


def ui_address() -> tuple[str, str]:
    """Return the base address of the UI's pages and a sentence on how to open them."""
    if mlflow.get_tracking_uri().startswith("http"):
        return shown_uri().rstrip("/"), "In the MLflow UI:"
    command = f"make ui` in {Path.cwd()}" if _make_knows_it() else f"{_ui_command()}`"
    return "http://127.0.0.1:5000", f"Browse it in the MLflow UI: run `{command}, then open"


def report_command(run_id: str) -> str:
    """Return the command that opens a run's report."""
    if _make_knows_it():
        return f"make report RUN={run_id}"
    store = store_argument()
    variable = f"MLFLOW_TRACKING_URI={store} " if not store.startswith('"$') else ""  # else the user's shell has it
    return (
        f"cd {shlex.quote(str(Path.cwd()))} && {variable}{shlex.quote(sys.executable)} -m entrypoints.report {run_id}"
    )


def entry_command(entry_point: str) -> str:
    """Return the command that runs an entry point in this folder."""
    return f"make {entry_point}" if Path("Makefile").is_file() else f"python -m entrypoints.{entry_point}"


def _make_knows_it() -> bool:
    """Tell whether the Makefile's commands, run in this folder without a variable, find this store."""
    return Path("Makefile").is_file() and database_path() == Path("mlflow.db").absolute()


def _ui_command() -> str:
    mlflow_command = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
    registry = ' --registry-store-uri "$MLFLOW_REGISTRY_URI"' if os.environ.get("MLFLOW_REGISTRY_URI") else ""
    return f"{mlflow_command} ui --backend-store-uri {store_argument()}{registry}"
