"""What tests read of a tracking store: runs, files, tables."""

import csv
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient


def options_of(**parameters) -> list[str]:
    """Return parameters as the words of a command line."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]


def runs_of(client: MlflowClient) -> list[Run]:
    """Return all runs of the experiment `study`, the newest first."""
    return list(client.search_runs([client.get_experiment_by_name("study").experiment_id], max_results=1000))


def steps_of(runs: list[Run]) -> dict[str, Run]:
    """Return those of the runs that steps made, by step; of two of a step, the older."""
    return {r.data.tags["cnnsim.step"]: r for r in runs if r.data.tags["cnnsim.role"] == "step"}


def children_of(runs: list[Run], parent: Run) -> list[Run]:
    """Return those of the runs that were made under another one, the oldest first."""
    found = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return sorted(found, key=lambda r: r.info.start_time)


def file_of(run: Run, path: str) -> Path:
    """Return where an artifact of a run lies."""
    return Path(run.info.artifact_uri.removeprefix("file://")) / path


def table_of(run: Run, name: str) -> dict[str, list[str]]:
    """Return a stored table in full precision, by column; cells are text."""
    with file_of(run, f"tables/{name}.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    return {column: [row[i] for row in rows] for i, column in enumerate(header)}
