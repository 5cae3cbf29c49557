"""One call of an entry point: what is checked before it, and what all of its steps share."""

import contextlib
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from cnnsim_tf import datasets, process, tracking
from cnnsim_tf.datasets import Dataset
from cnnsim_tf.pipeline import Pipeline, Step
from cnnsim_tf.process.limits import cores, free_memory
from cnnsim_tf.process.redaction import shown
from cnnsim_tf.process.terminal import say
from cnnsim_tf.process.users_code import PREPARE
from cnnsim_tf.run.cost import Cost
from cnnsim_tf.run.worker import Digests, software_of
from cnnsim_tf.steps.step import Context, Summary
from cnnsim_tf.study import LOCAL, Study


@dataclass
class Session:
    """One call of an entry point: what all of its steps share."""

    pipeline: Pipeline
    context: Context
    device: str  # as people read it
    gpu: bool  # whether it is one
    client: MlflowClient
    experiment_id: str
    digests: dict[str, str]
    at_once: int  # repeats that this process computes at the same time
    label: str = ""  # that runs' names end in, where their level and seed do not tell them apart
    results: dict[str, Sequence[Any]] = field(default_factory=dict)
    run_ids: dict[str, str] = field(default_factory=dict)
    stored: dict[str, dict[str, str]] = field(default_factory=dict)  # by run, the digests of its repeats
    summaries: dict[str, Summary] = field(default_factory=dict)  # of the steps that were made
    terminal: dict[str, str] = field(default_factory=dict)  # what the terminal shows of steps, made or checked
    passed_over: list[str] = field(default_factory=list)  # finished runs of damaged repeats, whose step is made again
    checked: set[str] = field(default_factory=set)  # steps whose finished runs were looked over
    reused: list[str] = field(default_factory=list)  # what was not computed anew, in sentences
    seconds: dict[str, float] = field(default_factory=dict)  # that steps took, summed over their repeats
    cost: Cost | None = None  # of computing the repeats that were not stored
    costs: dict[str, Cost] = field(default_factory=dict)  # the same, of each step
    versions: dict[str, str] = field(default_factory=dict)  # of the registered model: the run that each came from
    _known: dict[tuple, Any] = field(default_factory=dict)  # what is asked for with every repeat, and always the same

    @property
    def study(self) -> Study:
        """The study's parameters."""
        return self.context.study

    @property
    def software(self) -> Digests:
        """The versions of what computes, and a digest of this package's source."""
        return software_of(self.pipeline.software)

    @property
    def data_name(self) -> str:
        """The dataset's name, of a path its last part, as it may be shown."""
        return shown(Path(self.study.dataset).name)

    def fingerprint(self, step: str, *, of_repeats: bool = False) -> str:
        """Return a step's fingerprint (see Pipeline.fingerprint)."""
        known, key = self._known, ("fingerprint", step, of_repeats)
        if key not in known:
            known[key] = self.pipeline.fingerprint(self.study, step, self.digests, of_repeats=of_repeats)
        return known[key]

    def sizes(self, step: str) -> dict[str, Any]:
        """Return what names in the declaration of a step's result stand for (see steps/step.py)."""
        known, key = self._known, ("sizes", step)
        if key not in known:
            known[key] = self.pipeline[step].code.sizes(self.context)
        return known[key]


def open_session(pipeline: Pipeline, step: str, study: Study, said: Collection[str] = ()) -> Session:
    """Check everything that can be checked before anything is computed, the store last, since that may make one.

    Args:
        pipeline: with the step.
        step: that is run.
        study: its parameters, of which the context's donors and CNN are those that were found.
        said: sentences that need not be said again; a set gets those that are said.

    Raises:
        StudyError: something that the user can mend.
    """
    pipeline = pipeline.of(study)
    given, study = study, pipeline.checked(step, study)
    name, gpu, note = "CPU", False, ""
    if "tensorflow" in pipeline.software:
        from cnnsim_tf.run.device import configure  # which imports it

        # Before the user's modules are imported, in which TensorFlow may be made to do something.
        device = configure(study.device if study.scheduler == LOCAL else "cpu")  # else the workers train
        name, gpu, note = device.name, device.kind == "gpu", device.note
    digests = pipeline.source_digests(step, study)
    dataset, own = datasets.load(study.dataset), None
    if study.own_donors:
        from cnnsim_tf.run.own_donors import with_own_donors  # which imports it, too

        study, dataset, own = with_own_donors(given, dataset)
        study = pipeline.checked(step, study)  # now that the number of donors is known
        digests["donors"] = own.digest
    process.settle()
    at_once = 1 if gpu else _repeats_at_once(study, dataset)
    context = Context(study, dataset, -(-cores() // at_once) if study.scheduler == LOCAL else 1, own)
    if note and "device" in (f.name for f in pipeline.parameters_of(step)):
        say(note)
    for each in pipeline.up_to(step):
        for sentence in each.code.check(context):
            if sentence not in said:
                say(sentence)
            if isinstance(said, set):
                said.add(sentence)
    if study.fresh or tracking.is_new():  # to make a database takes a second, and nothing can be re-used
        prepare(context, pipeline.up_to(step))
    client = tracking.connect()
    digests["dataset"] = dataset.digest
    return Session(pipeline, context, name, gpu, client, tracking.experiment_of(client), digests, at_once)


def prepare(context: Context, steps: Iterable[Step]) -> None:
    """Begin what these steps' first repeats would else wait for, in a thread, where a core is idle before them."""
    tasks = [step.code.prepare for step in steps if hasattr(step.code, "prepare")]
    if not tasks or context.study.scheduler != LOCAL or cores() == 1:
        return

    def work() -> None:
        for task in tasks:
            with contextlib.suppress(Exception):  # whoever needs it will see it, too
                task(context)

    with contextlib.suppress(RuntimeError):  # no thread can be begun here
        threading.Thread(target=work, name=PREPARE).start()


def _repeats_at_once(study: Study, dataset: Dataset) -> int:
    """Return how many repeats this process computes at the same time: one per core, as far as memory allows.

    Parts of a repeat have too little in them for several cores: on two, two repeats at once took 8.6 s, and one after
    the other, with two threads each, 11.1 s. Each has in memory about 2.5 times its noised images.
    """
    of_a_repeat = 2.5 * 4 * dataset.x_train.size
    return max(1, min(cores(), study.repeats, int(free_memory() / 2 / of_a_repeat)))
