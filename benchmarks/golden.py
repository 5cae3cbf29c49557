"""Whether two commits compute the same numbers: all tables and metrics of two studies, to the last digit.

    python -m benchmarks.golden make FOLDER [--checkout CHECKOUT]    run the studies of a checkout, keep their tables
    python -m benchmarks.golden compare FOLDER FOLDER                say what differs; exits with 1 if anything does

Both checkouts run in the environment of this command, on one machine: another processor's last digits may differ.
"""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import cnnsim_tf  # noqa: F401 before MLflow, whose own notes it turns off

from mlflow.tracking import MlflowClient  # isort: skip

STUDIES = {
    "default": ["--repeats=3"],
    "everything": [
        *("--repeats=3", "--dataset=benchmarks.inputs:few_images", "--variants=all", "--measures=all"),
        *("--align=network", "--target=mixed", "--epochs=2"),
    ],
}
OF_TIME = ("cost/", "seconds", "system/")  # metrics of how long it took here


def make(folder: Path, checkout: Path) -> None:
    """Run the studies of a checkout and keep their tables and metrics in a folder."""
    folder.mkdir(parents=True)
    store = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(store)
    experiment = client.create_experiment("golden", artifact_location=(folder / "artifacts").as_uri())
    variables = {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": "golden"}
    for study, words in STUDIES.items():
        command = [sys.executable, "-m", "entrypoints.warmstart", f"--registered-model={study}", *words]
        subprocess.run(command, cwd=checkout, env=os.environ | variables, check=True)
        _keep(client, experiment, study, folder / "tables")


def _keep(client: MlflowClient, experiment: str, study: str, folder: Path) -> None:
    """Copy what the newest runs logged: their tables, and their metrics as a table."""
    for run in client.search_runs([experiment], max_results=5000):
        tags = run.data.tags
        if "cnnsim.golden" in tags:
            continue
        of_step = tags["cnnsim.role"] == "step"
        target = folder / study / tags["cnnsim.step"] / ("" if of_step else run.info.run_name)
        client.set_tag(run.info.run_id, "cnnsim.golden", study)
        target.mkdir(parents=True, exist_ok=True)
        for table in Path(unquote(urlparse(run.info.artifact_uri).path), "tables").glob("*.csv"):
            (target / table.name).write_bytes(table.read_bytes())
        with (target / "metrics.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["metric", "step", "value"])
            for name in sorted(run.data.metrics):
                if not name.startswith(OF_TIME) and "seconds" not in name:
                    history = client.get_metric_history(run.info.run_id, name)
                    rows.writerows([name, m.step, repr(m.value)] for m in sorted(history, key=lambda m: m.step))


def compare(one: Path, other: Path) -> int:
    """Print what differs between two folders of tables; return how many tables do."""
    differing = 0
    names = {p.relative_to(f / "tables") for f in (one, other) for p in (f / "tables").rglob("*.csv")}
    cells = 0
    for name in sorted(names):
        read = [_columns(folder / "tables" / name) for folder in (one, other)]
        words = []
        for column in dict.fromkeys([*read[0], *read[1]]):
            a, b = (columns.get(column) for columns in read)
            if a is None or b is None:
                words.append(f"{column}: only in the {'second' if a is None else 'first'}")
            elif a != b:
                rows = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y] or [min(len(a), len(b))]
                shown = " and ".join(values[rows[0]] if rows[0] < len(values) else "nothing" for values in (a, b))
                words.append(f"{column}: {len(rows)} of {len(a)} rows, first {shown} in row {rows[0] + 1}")
            else:
                cells += len(a)
        if words:
            differing += 1
            print(f"{name}\n    " + "\n    ".join(words))
    print(f"{len(names)} tables, {differing} of them differ; {cells} cells are equal")
    return differing


def _columns(file: Path) -> dict[str, list[str]]:
    """Return a table's cells as they are written, by column; nothing of a table that is not there."""
    if not file.exists():
        return {}
    with file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=lambda text: Path(text).resolve())
    making.add_argument("--checkout", type=Path, default=Path(__file__).parents[1])
    comparing = commands.add_parser("compare")
    comparing.add_argument("folders", type=Path, nargs=2)
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder, given.checkout)
    else:
        sys.exit(min(compare(*given.folders), 1))
