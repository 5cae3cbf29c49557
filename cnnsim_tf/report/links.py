"""Links to pages of the MLflow UI."""

import json
import re
from collections.abc import Mapping
from urllib.parse import quote


def charts_link(base: str, experiment_id: str, run_id: str, role: str) -> str:
    """Return the UI's page with the charts of a run's children of one role.

    Sorted by name, since the UI folds children away under their parent as long as runs are sorted by time.
    """
    search = quote(f"tags.mlflow.parentRunId='{run_id}' and tags.`cnnsim.role`='{role}'")
    order = quote("tags.`mlflow.runName`")
    return (
        f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&searchFilter={search}&orderByKey={order}&orderByAsc=true&compareRunsMode=CHART"
    )


def figures_link(base: str, experiment_id: str, run_id: str, figure: str) -> str:
    """Return the UI's page with a run's stored figures and tables, opened at one of the figures."""
    page = f"{base}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/figures/{figure}"
    return f"{page}?workflowType=machine_learning"


def versions_link(base: str, model: str, versions: Mapping[str, str]) -> str:
    """Return the UI's page that compares versions of a registered model; `versions` maps each to its run's id."""
    name = quote(json.dumps(model))
    runs = quote(json.dumps(dict(versions), separators=(",", ":")))
    return f"{base}/#/compare-model-versions?name={name}&runs={runs}&workflowType=machine_learning"


def linked(source: str) -> str:
    """Return in markdown where a model comes from: a registered version as a link of the UI."""
    return re.sub(r"^models:/+([^/]+)/(\d+)$", r"[\g<0>](#/models/\1/versions/\2)", source)
