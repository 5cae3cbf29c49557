"""One call of an entry point: what is checked before it, and what all of its steps share."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

from cnnsim_tf import cnn, datasets, noise, tracking
from cnnsim_tf.device import Device, configure
from cnnsim_tf.measures import MEASURES
from cnnsim_tf.registry import Registry
from cnnsim_tf.schemes import SCHEMES
from cnnsim_tf.steps import warmstart
from cnnsim_tf.steps.step import Context
from cnnsim_tf.study import StepName, Study, fingerprint, parameters_of
from cnnsim_tf.training import why_not_fleet


@dataclass
class Session:
    """One call of an entry point: what all of its steps share."""

    context: Context
    device: Device
    client: MlflowClient
    experiment_id: str
    digests: dict[str, str]
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
    """Print a line to stderr, where the progress bars are."""
    print(line, file=sys.stderr, flush=True)


def open_session(step: StepName, study: Study) -> Session:
    """Check everything that can be checked before anything is computed, the store last, since that may make one."""
    digests = _source_digests(study, parameters_of(step))
    dataset = datasets.load(study.dataset)
    datasets.subset_indices(len(dataset.x_train), len(study.noises), np.random.default_rng())  # raises if too few
    device = configure(study.device)
    if step != "noising" and (reason := why_not_fleet(study.cnn, dataset.side, dataset.classes)):
        say(f"the CNN {study.cnn} trains with Keras's own layers, slower than with the fleet engine: {reason}")
    client = tracking.connect()
    digests["dataset"] = dataset.digest
    return Session(Context(study, dataset), device, client, tracking.experiment_of(client), digests)


def _source_digests(study: Study, parameters: Sequence[str]) -> dict[str, str]:
    """Return digests of the user's own functions that parameters name; unknown names are errors here."""
    names: dict[str, tuple[Registry[Any], Iterable[str]]] = {
        "noises": (noise.NOISES, study.noises),
        "measures": (MEASURES, study.measures),
        "cnn": (cnn.CNNS, [study.cnn]),
    }
    if "variants" in parameters:
        names["variants"] = (SCHEMES, {v.scheme: None for v in warmstart.variants_of(study)})
    digests = {}
    for parameter in (p for p in names if p in parameters):
        registry, entries = names[parameter]
        for entry in entries:
            registry.get(entry)
            if source := registry.source_digest(entry):
                digests[f"{parameter} {entry}"] = source
    return digests
