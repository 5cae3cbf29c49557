"""All repeats of a study: those that are stored somewhere are taken over, the others computed, each stored at once."""

import contextlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Client
from mlflow.entities import Run

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.pipeline import Step
from cnnsim_tf.process.redaction import redacted
from cnnsim_tf.process.terminal import say
from cnnsim_tf.run import cluster
from cnnsim_tf.run.progress import bar
from cnnsim_tf.run.session import Session
from cnnsim_tf.run.storage import DamagedError, Identity, from_npz
from cnnsim_tf.run.worker import compute, recipe_of
from cnnsim_tf.steps.arrays import without_dropped
from cnnsim_tf.steps.kept import Repeats

Results = dict[str, Repeats]  # per step


@dataclass(frozen=True)
class Computed:
    """What a worker made of a repeat, looked through."""

    results: dict[str, tuple[Any, bytes]]  # per step: what is kept of it, and all as it is stored
    error: StudyError | None  # the mistake of the user's that ended it, if one did
    seconds: dict[str, float]  # that each step took


def compute_repeats(session: Session, steps: Sequence[Step], workers: Client) -> StudyError | None:
    """Fill the session's results of these steps, whose runs are made, and store them there.

    Returns:
        Why some repeats could not be computed, or None. The results of a step are then those that there are.

    Raises:
        StudyError: something that the user can mend.
    """
    results = {step.name: _taken_over(session, step) for step in steps}
    failures = _compute_missing(session, steps, workers, results)
    session.results.update(results)
    if not failures:
        return None
    first, failed = next(iter(sorted(failures.items())))
    others = f", and {len(failures) - 1} others like it," if len(failures) > 1 else ""
    return StudyError(
        f"repeat {first} {failed.reason}{others} so the study is not complete: all other repeats are stored, "
        f"failures/ in the run's artifacts has the details, and the same command tries again"
    )


def read_repeats(session: Session, step: Step, found: Run) -> Repeats | None:
    """Return all stored repeats of a run, or None where some are not there or damaged (which is said)."""
    repeats = _no_repeats(session, step)
    for repeat in range(1, session.study.repeats + 1):
        if stored := _read_stored(session, step, found, repeat):
            repeats.keep(repeat, stored[0])
    return repeats if len(repeats) == session.study.repeats else None


def _no_repeats(session: Session, step: Step) -> Repeats:
    """Return a place for the repeats of a step."""
    return Repeats(step.code.Result, session.study.repeats, lambda repeat: _read_back(session, step, repeat))


def _read_back(session: Session, step: Step, repeat: int) -> Any:
    """Return all of a repeat that the step's run holds, and that was looked through when it came there.

    Raises:
        StudyError: it is gone, or another.
    """
    run_id, path = session.run_ids[step.name], _path(repeat)
    content = tracking.read_bytes(session.client, run_id, path)
    if content is None or tracking.digest_of(content) != session.stored[run_id].get(path):
        what = "is gone" if content is None else "is no longer as it was stored"
        raise StudyError(
            f"{step.title}: repeat {repeat} stored in run {run_id} {what}: the same command computes it again, and no "
            "other"
        )
    return _checked(session, step, repeat, content)


def _read_stored(session: Session, step: Step, found: Run, repeat: int) -> tuple[Any, bytes] | None:
    content = tracking.read_bytes(session.client, found.info.run_id, _path(repeat))
    if content is None:
        return None
    try:
        result = _checked(session, step, repeat, content)
        vouched = _vouched(session, found)
        if found.info.status == "FINISHED" and vouched.get(_path(repeat)) != tracking.digest_of(content):
            raise DamagedError("it is another than the run stored" if vouched else "nothing vouches for it")
        return _kept(session, step, result), content
    except DamagedError as error:
        say(
            f"{step.title}: repeat {repeat} stored in run {found.info.run_name!r} ({found.info.run_id}) is damaged "
            f"({error}): it is computed again"
        )
        return None


def _vouched(session: Session, found: Run) -> dict[str, str]:
    """Return the digests of a run's repeats, which it has once it finished; nothing where they are gone or changed.

    Where only their file is, but all repeats are as they were, it is made again.
    """
    run_id = found.info.run_id
    if run_id not in session.stored:
        digests = tracking.read_digests(session.client, found, tracking.REPEATS)
        if digests is None:
            digests, repeats = {}, itertools.count(1)
            while content := tracking.read_bytes(session.client, run_id, path := _path(next(repeats))):
                digests[path] = tracking.digest_of(content)
            if tracking.vouches_for(found, digests, tracking.REPEATS):
                tracking.log_digests(session.client, run_id, digests, tracking.REPEATS)
            else:
                digests = {}
        session.stored[run_id] = digests
    return session.stored[run_id]


def _checked(session: Session, step: Step, repeat: int, content: bytes) -> Any:
    """Return the result in the bytes of a repeat.

    Raises:
        DamagedError: they are not what the study stores of this repeat.
    """
    identity = Identity(step.name, repeat, session.fingerprint(step.name, of_repeats=True))
    return from_npz(step.code.Result, content, identity, session.sizes(step.name))


def _kept(session: Session, step: Step, result: Any) -> Any:
    """Return what is kept in memory of a result that is stored, or about to be."""
    return without_dropped(result, session.sizes(step.name))


def _taken_over(session: Session, step: Step) -> Repeats:
    """Return the repeats that earlier runs of the same recipe have stored, and store them in the step's run too."""
    run_id, results = session.run_ids[step.name], _no_repeats(session, step)
    if session.study.fresh:
        return results
    recipe = session.fingerprint(step.name, of_repeats=True)
    for earlier in tracking.find_repeats(session.client, recipe):
        if earlier.info.run_id == run_id:
            continue
        for repeat in range(1, session.study.repeats + 1):
            if not results.has(repeat) and (stored := _read_stored(session, step, earlier, repeat)):
                result, content = stored
                results.keep(repeat, result)
                _store(session, step.name, repeat, content)
        tracking.name_successor(session.client, earlier, run_id)
    if results:
        taken_over = (
            f"{step.title}: took over {len(results)} of {session.study.repeats} repeats from earlier runs of the same "
            "settings"
        )
        session.reused.append(taken_over)
        say(taken_over)
    return results


def _compute_missing(
    session: Session, steps: Sequence[Step], workers: Client, results: Results
) -> dict[int, cluster.Failed]:
    """Compute the repeats that are not there and add them to the results; return those that were given up."""
    context, study = session.context, session.study
    missing: dict[int, list[Step]] = {
        repeat: lacking
        for repeat in range(1, study.repeats + 1)
        if (lacking := [step for step in steps if not results[step.name].has(repeat)])
    }
    passes = {step.name: step.code.passes(context) for step in steps}
    total = {repeat: sum(passes[step.name] for step in lacking) for repeat, lacking in missing.items()}
    recipe = recipe_of(context, session.digests, session.software)
    recipes = {step.name: session.fingerprint(step.name, of_repeats=True) for step in steps}

    def arguments(repeat: int) -> tuple[Any, ...]:
        lacking = missing[repeat]
        inputs = {need for step in lacking for need in step.needs} - {step.name for step in lacking}
        stored = {name: _read_back(session, session.pipeline[name], repeat) for name in inputs}
        return recipe, repeat, lacking, stored, recipes

    def read(repeat: int, answer: Any) -> Computed:
        return _looked_through(session, missing[repeat], repeat, answer)

    failures: dict[int, cluster.Failed] = {}
    unit = "images" if max(passes.values()) > 1 else "repeats"

    def no_worker() -> None:
        at = study.scheduler
        say(f"the Dask scheduler at {at} has no worker: waiting for one, which `dask worker {at}` starts")

    gpu = study.device != "cpu"
    with (
        bar(steps[-1].title, study.repeats, sum(total.values()), unit, study.repeats - len(missing)) as shown,
        contextlib.closing(  # also where an error ends the loop: what runs is stopped while the workers are connected
            cluster.compute(
                workers,
                compute,
                arguments,
                list(missing),
                gpu=gpu,
                read=read,
                on_progress=shown.report,
                on_no_worker=no_worker,
            )
        ) as outcomes,
    ):
        for repeat, outcome in outcomes:
            if isinstance(outcome, cluster.Failed):
                failures[repeat] = outcome
                details = redacted(outcome.details).encode()
                tracking.log_bytes(
                    session.client, session.run_ids[steps[-1].name], details, f"failures/repeat_{repeat:03d}.txt"
                )
                continue
            for name, seconds in outcome.seconds.items():
                session.seconds[name] = session.seconds.get(name, 0.0) + seconds
            for name, (result, content) in outcome.results.items():
                _store(session, name, repeat, content)
                results[name].keep(repeat, result)
            if outcome.error:
                raise outcome.error
            shown.finish(repeat, total[repeat])
    return failures


def _looked_through(session: Session, steps: Sequence[Step], repeat: int, answer: Any) -> Computed:
    """Return a worker's answer (see worker.compute), which is held against what it must be.

    Raises:
        ValueError: it is something else.
    """
    given, error, seconds = (answer[key] for key in ("results", "error", "seconds"))
    names = [step.name for step in steps]
    if list(given) != (names[: len(given)] if error else names) or list(seconds) != list(given):
        raise ValueError(f"it has the steps {', '.join(given)} instead of {', '.join(names)}")
    if not all(isinstance(s, float) and 0 <= s < math.inf for s in seconds.values()):
        raise ValueError("it says no seconds that its steps took")
    if not (error is None or isinstance(error, str)):
        raise ValueError("its error is no text")
    results = {}
    for step in steps[: len(given)]:
        try:
            result = _checked(session, step, repeat, given[step.name])
            results[step.name] = _kept(session, step, result), given[step.name]
        except DamagedError as damage:
            raise DamagedError(f"its {step.title}: {damage}") from damage
    return Computed(results, StudyError(error) if error else None, seconds)


def _store(session: Session, name: str, repeat: int, content: bytes) -> None:
    run_id = session.run_ids[name]
    session.stored.setdefault(run_id, {}).update(tracking.log_bytes(session.client, run_id, content, _path(repeat)))


def _path(repeat: int) -> str:
    return f"repeats/repeat_{repeat:03d}.npz"
