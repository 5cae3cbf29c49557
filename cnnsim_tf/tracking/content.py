"""What runs hold: parameters, metrics, figures, tables, files, the data set."""

import csv
import io
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from matplotlib.figure import Figure
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from cnnsim_tf.datasets import Dataset


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Log parameters that the run does not have yet (`mlflow run` logs the raw ones first) and all as config.json."""
    known = client.get_run(run_id).data.params
    new = [Param(k, _text(v)) for k, v in params.items() if k not in known]
    client.log_batch(run_id, params=new)
    client.log_dict(run_id, dict(params), "config.json")


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])


def log_metrics(client: MlflowClient, run_id: str, metrics: Iterable[tuple[str, float, int]]) -> None:
    """Log metrics, each a name, a value and a step; those that are not finite are left out."""
    now = int(time.time() * 1000)
    batch = [Metric(name, round(float(v), 6), now, int(step)) for name, v, step in metrics if np.isfinite(v)]
    for first in range(0, len(batch), 1000):  # the most that a store takes at once
        client.log_batch(run_id, metrics=batch[first : first + 1000])


def log_figure(client: MlflowClient, run_id: str, figure: Figure, path: str) -> None:
    """Store a figure as an image."""
    client.log_figure(run_id, figure, path, save_kwargs={"dpi": 150})


def log_table(client: MlflowClient, run_id: str, table: Mapping[str, list], name: str) -> None:
    """Store a table of columns twice: tables/NAME.json, which the UI shows and compares, and tables/NAME.csv."""
    client.log_table(run_id, {k: [_shown(v) for v in column] for k, column in table.items()}, f"tables/{name}.json")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([_cell(v) for v in row] for row in zip(*table.values(), strict=True))
    client.log_text(run_id, text.getvalue(), f"tables/{name}.csv")


def log_bytes(client: MlflowClient, run_id: str, content: bytes, path: str) -> None:
    """Store a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        file.write_bytes(content)
        parent = str(Path(path).parent)
        client.log_artifact(run_id, str(file), None if parent == "." else parent)


def read_bytes(client: MlflowClient, run_id: str, path: str) -> bytes | None:
    """Return the content of a stored file, or None if it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
        except (MlflowException, OSError):
            return None


def log_dataset(client: MlflowClient, run_id: str, dataset: Dataset, context: str) -> None:
    """Log the training images and labels as the run's input; the data itself is not stored."""
    data = mlflow.data.from_numpy(  # type: ignore[attr-defined]
        dataset.x_train, targets=dataset.y_train, name=dataset.name[:500], digest=dataset.digest[:16]
    )
    entity = data._to_mlflow_entity()
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _shown(value: Any) -> Any:
    """Return a table's value as the UI should show it: rounded, and no NaN, which JSON does not have."""
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


def _cell(value: Any) -> Any:
    """Return a table's value for a .csv: in full, and nothing where there is no number."""
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else value
