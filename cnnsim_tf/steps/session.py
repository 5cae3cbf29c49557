"""One call of an entry point: what is checked before it, and what all of its steps share."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient
from tqdm import tqdm

from cnnsim_tf import datasets, tracking
from cnnsim_tf.device import Device, configure, cores
from cnnsim_tf.errors import ParameterError
from cnnsim_tf.steps.recipe import source_digests
from cnnsim_tf.steps.step import Context
from cnnsim_tf.study import LOCAL, StepName, Study, fingerprint, parameters_of
from cnnsim_tf.training import why_not_fleet


@dataclass
class Session:
    """One call of an entry point: what all of its steps share."""

    context: Context
    device: Device
    client: MlflowClient
    experiment_id: str
    digests: dict[str, str]
    at_once: int  # repeats that this process computes at the same time
    results: dict[StepName, Sequence[Any]] = field(default_factory=dict)
    run_ids: dict[StepName, str] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        """The study's parameters."""
        return self.context.study

    def fingerprint(self, step: StepName, *, of_repeats: bool = False) -> str:
        """Return a step's fingerprint (see study.fingerprint)."""
        return fingerprint(self.study, step, self.digests, of_repeats=of_repeats)


def say(line: str) -> None:
    """Print a line to stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def open_session(step: StepName, study: Study) -> Session:
    """Check everything that can be checked before anything is computed, the store last, since that may make one."""
    digests = source_digests(study, parameters_of(step))
    dataset = datasets.load(study.dataset)
    datasets.subset_indices(len(dataset.x_train), len(study.noises), np.random.default_rng())  # raises if too few
    device = configure(study.device if study.scheduler == LOCAL else "cpu")  # else the workers train
    if step != "noising" and study.engine != "keras":
        check_engine(study, why_not_fleet(study.cnn, dataset.side, dataset.classes))
    at_once = -(-cores() // len(study.noises)) if device.kind == "cpu" else 1  # its donors keep as many threads busy
    threads = -(-cores() // at_once) if study.scheduler == LOCAL else 1
    client = tracking.connect()
    digests["dataset"] = dataset.digest
    context = Context(study, dataset, threads)
    return Session(context, device, client, tracking.experiment_of(client), digests, at_once)


def check_engine(study: Study, why_not: str | None) -> None:
    """Say which engine trains a CNN that the fleet engine cannot train.

    Raises:
        ParameterError: the fleet engine is asked for.
    """
    if why_not and study.engine == "fleet":
        raise ParameterError(f"engine is fleet, which cannot train the CNN {study.cnn}: {why_not}; use engine=auto")
    if why_not:
        say(f"the CNN {study.cnn} trains with Keras's own layers, slower than with the fleet engine: {why_not}")
