"""Every MLflow call but those of the command line: the store, runs and what they hold, registered models."""

from cnnsim_tf.tracking.advice import entry_command, report_command, ui_address
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
from cnnsim_tf.tracking.models import (
    delete_stored_model,
    delete_version,
    log_model,
    predictions,
    register_model,
    registered_versions,
    set_alias,
    stored_models,
)
from cnnsim_tf.tracking.runs import (
    COLOUR,
    FINGERPRINT,
    NOTE,
    REPEATS_OF,
    REUSE,
    REUSED,
    ROLE,
    STEP,
    OpenRuns,
    children,
    end_dead_runs,
    find_ended_early,
    find_finished,
    find_repeats,
    find_reported,
    find_run,
    get_run,
    mark_failed,
    name_successor,
    open_runs,
    run,
)
from cnnsim_tf.tracking.store import connect, experiment_of
