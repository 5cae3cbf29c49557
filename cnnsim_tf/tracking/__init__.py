"""Every MLflow call but those of the command line: the store, runs and what they hold, registered models."""

from cnnsim_tf.tracking.content import (
    log_bytes,
    log_dataset,
    log_figure,
    log_metrics,
    log_params,
    log_table,
    read_bytes,
    set_tags,
)
from cnnsim_tf.tracking.models import log_model, register_model, registered_version, stored_model
from cnnsim_tf.tracking.runs import (
    FINGERPRINT,
    NOTE,
    REPEATS_OF,
    ROLE,
    STEP,
    children,
    end_dead_runs,
    find_finished,
    find_repeats,
    get_run,
    mark_failed,
    run,
)
from cnnsim_tf.tracking.store import connect, experiment_of, ui_address

__all__ = [
    "FINGERPRINT",
    "NOTE",
    "REPEATS_OF",
    "ROLE",
    "STEP",
    "children",
    "connect",
    "end_dead_runs",
    "experiment_of",
    "find_finished",
    "find_repeats",
    "get_run",
    "log_bytes",
    "log_dataset",
    "log_figure",
    "log_metrics",
    "log_model",
    "log_params",
    "log_table",
    "mark_failed",
    "read_bytes",
    "register_model",
    "registered_version",
    "run",
    "set_tags",
    "stored_model",
    "ui_address",
]
