"""One call of an entry point: what is checked before it, and what all of its steps share."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

from cnnsim_tf import datasets, process, tracking
from cnnsim_tf.datasets import Dataset
from cnnsim_tf.measures import MEASURES, get_measure
from cnnsim_tf.models import check_export
from cnnsim_tf.networks import check_layers
from cnnsim_tf.process.limits import cores, free_memory
from cnnsim_tf.process.terminal import say
from cnnsim_tf.run.cost import Cost, check_country
from cnnsim_tf.run.device import Device, configure
from cnnsim_tf.run.recipe import source_digests
from cnnsim_tf.schemes import expand_variants, get_scheme
from cnnsim_tf.steps.step import Context, Summary
from cnnsim_tf.steps.warmstart.compute import variants_of
from cnnsim_tf.study import LOCAL, StepName, Study, fingerprint, parameters_of
from cnnsim_tf.training import check_engine, why_not_fleet


@dataclass
class Session:
    """One call of an entry point: what all of its steps share."""

    context: Context
    device: Device
    client: MlflowClient
    experiment_id: str
    digests: dict[str, str]
    at_once: int  # repeats that this process computes at the same time
    label: str = ""  # that runs' names end in, where their level and seed do not tell them apart
    results: dict[StepName, Sequence[Any]] = field(default_factory=dict)
    run_ids: dict[StepName, str] = field(default_factory=dict)
    summaries: dict[StepName, Summary] = field(default_factory=dict)  # of the steps that were made
    reused: list[str] = field(default_factory=list)  # what was not computed anew, in sentences
    seconds: dict[StepName, float] = field(default_factory=dict)  # that steps took, summed over their repeats
    cost: Cost | None = None  # of computing the repeats that were not stored
    costs: dict[StepName, Cost] = field(default_factory=dict)  # the same, of each step
    versions: dict[str, str] = field(default_factory=dict)  # of the registered model: the run that each came from

    @property
    def study(self) -> Study:
        """The study's parameters."""
        return self.context.study

    @property
    def data_name(self) -> str:
        """The dataset's name, of a path its last part."""
        return Path(self.study.dataset).name

    def fingerprint(self, step: StepName, *, of_repeats: bool = False) -> str:
        """Return a step's fingerprint (see study.fingerprint)."""
        return fingerprint(self.study, step, self.digests, of_repeats=of_repeats)


def open_session(step: StepName, study: Study) -> Session:
    """Check everything that can be checked before anything is computed, the store last, since that may make one."""
    check_country(study.country)
    # Before the user's modules are imported, in which TensorFlow may be made to do something.
    device = configure(study.device if study.scheduler == LOCAL else "cpu")  # else the workers train
    study = expanded(study)
    digests = source_digests(study, parameters_of(step))
    dataset = datasets.load(study.dataset)
    datasets.subset_indices(len(dataset.x_train), len(study.noises), np.random.default_rng())  # raises if too few
    process.settle()
    if step != "noising":
        if device.note:
            say(device.note)
        _check_engine(study, dataset)
    at_once = _repeats_at_once(study, dataset) if device.kind == "cpu" else 1
    threads = -(-cores() // at_once) if study.scheduler == LOCAL else 1
    context = Context(study, dataset, threads)
    if step == "warmstart":
        check_export(study.cnn, dataset.side, dataset.classes)
    if step in ("similarity", "warmstart"):
        check_layers(study.cnn, dataset.side, dataset.classes)
        schemes = [get_scheme(v.scheme) for v in variants_of(study)] if step == "warmstart" else []
        if study.align == "network" or any(scheme.needs_chain for scheme in schemes):
            _ = context.hidden  # raises where units cannot be followed from layer to layer
    client = tracking.connect()
    digests["dataset"] = dataset.digest
    return Session(context, device, client, tracking.experiment_of(client), digests, at_once)


def expanded(study: Study) -> Study:
    """Return the study with the names that groups of measures and variants stand for.

    Raises:
        ParameterError: a name is unknown.
    """
    for given in study.measures:
        if given != "all":
            get_measure(given)  # before the variants, whose measures would be missed first
    written_out = [name for given in study.measures for name in (MEASURES if given == "all" else [given])]
    measures = tuple(dict.fromkeys(written_out))
    return dataclasses.replace(study, measures=measures, variants=expand_variants(study.variants, measures))


def _repeats_at_once(study: Study, dataset: Dataset) -> int:
    """Return how many repeats this process computes at the same time: one per core, as far as memory allows.

    Parts of a repeat have too little in them for several cores: on two, two repeats at once take 8.6 s, and one after
    the other, with two threads each, 11.1 s. Each has in memory about 2.5 times its noised images.
    """
    of_a_repeat = 2.5 * 4 * dataset.x_train.size
    return max(1, min(cores(), study.repeats, int(free_memory() / 2 / of_a_repeat)))


def _check_engine(study: Study, dataset: Dataset) -> None:
    """Say so where the fleet engine does not train the CNN although nobody has chosen another.

    Raises:
        ParameterError: it is asked for and cannot.
    """
    cnn = study.cnn, dataset.side, dataset.classes
    check_engine(study.engine, *cnn)
    if study.engine == "auto" and (reason := why_not_fleet(*cnn)):
        say(f"the CNN {study.cnn} trains with Keras's own layers, not with the fleet engine: {reason}")
