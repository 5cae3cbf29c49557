"""All repeats of a study: those that are stored somewhere are taken over, the others computed, each stored at once."""

import contextlib
from collections.abc import Sequence
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
from cnnsim_tf.run.storage import DamagedError, from_npz, to_npz
from cnnsim_tf.run.worker import compute, recipe_of

Results = dict[str, dict[int, Any]]  # per step, by repeat


def compute_repeats(session: Session, steps: Sequence[Step], workers: Client) -> StudyError | None:
    """Fill the session's results of these steps, whose runs are made, and store them there.

    Returns:
        Why some repeats could not be computed, or None. The results of a step are then those that there are.

    Raises:
        StudyError: something that the user can mend.
    """
    results = {step.name: _taken_over(session, step) for step in steps}
    failures = _compute_missing(session, steps, workers, results)
    for name, of_step in results.items():
        session.results[name] = [of_step[r] for r in sorted(of_step)]
    if not failures:
        return None
    first, failed = next(iter(sorted(failures.items())))
    others = f", and {len(failures) - 1} others like it," if len(failures) > 1 else ""
    return StudyError(
        f"repeat {first} {failed.reason}{others} so the study is not complete: all other repeats are stored, "
        f"failures/ in the run's artifacts has the details, and the same command tries again"
    )


def read_repeat(session: Session, step: Step, found: Run, repeat: int) -> Any | None:
    """Return a stored repeat, or None where there is none or where it is damaged (which is said)."""
    content = tracking.read_bytes(session.client, found.info.run_id, _path(repeat))
    if content is None:
        return None
    try:
        return from_npz(step.code.Result, content)
    except DamagedError as error:
        say(
            f"{step.title}: repeat {repeat} stored in run {found.info.run_name!r} ({found.info.run_id}) is damaged "
            f"({error}): it is computed again"
        )
        return None


def _taken_over(session: Session, step: Step) -> dict[int, Any]:
    """Return the repeats that earlier runs of the same recipe have stored, and store them in the step's run too."""
    if session.study.fresh:
        return {}
    run_id, results = session.run_ids[step.name], {}
    recipe = session.fingerprint(step.name, of_repeats=True)
    for earlier in tracking.find_repeats(session.client, recipe):
        if earlier.info.run_id == run_id:
            continue
        for repeat in range(1, session.study.repeats + 1):
            if repeat not in results and (result := read_repeat(session, step, earlier, repeat)) is not None:
                results[repeat] = result
                _store(session, step.name, repeat, result)
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
        if (lacking := [step for step in steps if repeat not in results[step.name]])
    }
    passes = {step.name: step.code.passes(context) for step in steps}
    total = {repeat: sum(passes[step.name] for step in lacking) for repeat, lacking in missing.items()}
    recipe = recipe_of(context, session.digests, session.software)

    def arguments(repeat: int) -> tuple[Any, ...]:
        lacking = missing[repeat]
        inputs = {need for step in lacking for need in step.needs} - {step.name for step in lacking}
        return recipe, repeat, lacking, {name: _stored(session, results, name, repeat) for name in inputs}

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
            for name, result in outcome.results.items():
                results[name][repeat] = result
                _store(session, name, repeat, result)
            if outcome.error:
                raise outcome.error
            shown.finish(repeat, total[repeat])
    return failures


def _stored(session: Session, results: Results, name: str, repeat: int) -> Any:
    """Return the result of a step that is not computed now."""
    return results[name][repeat] if name in results else session.results[name][repeat - 1]


def _store(session: Session, name: str, repeat: int, result: Any) -> None:
    tracking.log_bytes(session.client, session.run_ids[name], to_npz(result), _path(repeat))


def _path(repeat: int) -> str:
    return f"repeats/repeat_{repeat:03d}.npz"
