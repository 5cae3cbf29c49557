"""The process that runs a study, with workers that compute nothing: python -m benchmarks.driver --repeats 20000.

One repeat of the reference study is computed, and varied; from then on each repeat is answered with one of these, under
its own identity and digest. All else is the study's own code: checks, store, tables, figures, models.
"""

import dataclasses
import hashlib
import io
import os
import tempfile
import threading
import time
import zipfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.worker import peak_mib
from cnnsim_tf.pipeline import PIPELINE, Pipeline
from cnnsim_tf.run import repeats, runner, worker
from cnnsim_tf.run.storage import DIGEST, IDENTITY, Identity, from_npz, hashed, to_npz
from cnnsim_tf.steps.arrays import declared
from cnnsim_tf.study import Study

VARIED = 100  # so many different repeats; the rest are these again
_computing = threading.Lock()


@dataclass(frozen=True)
class StandIn:
    """Which of the repeats that there are stands for one."""

    number: int


class Idle:
    """The code of a step whose `compute` returns a repeat that is there already."""

    def __init__(self, name: str) -> None:
        self.name, self.real = name, PIPELINE[name].code

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def compute(self, context: Any, repeat: int, inputs: dict[str, Any], progress: Any) -> Any:
        """Return which repeat stands for this one."""
        worker.to_npz = answered  # type: ignore[assignment]
        with _computing:
            prepared(context)
        progress(self.real.passes(context))
        return StandIn(repeat % min(VARIED, context.study.repeats))


CODE = {step.name: Idle(step.name) for step in PIPELINE}
NOISING, SUBSET_TRAINING, SIMILARITY, WARMSTART = CODE.values()
IDLE = Pipeline(
    [dataclasses.replace(step, code_at=f"benchmarks.driver:{step.name.upper()}") for step in PIPELINE],
    software=PIPELINE.software,
)
_prepared: dict[str, list[tuple[bytes, Any]]] = {}


def prepared(context: Any) -> None:
    """Make the repeats of all steps: a real one, and what `varied` makes of it."""
    if _prepared:
        return
    made: dict[str, Any] = {}
    for name, code in CODE.items():
        made[name] = code.real.compute(context, 1, dict(made), lambda images: None)
    for name, result in made.items():
        sizes, kind = CODE[name].sizes(context), type(result)
        for seed in range(min(VARIED, context.study.repeats)):
            other = varied(kind, result, sizes, np.random.default_rng(seed))
            from_npz(kind, content := to_npz(other), None, sizes)
            with np.load(io.BytesIO(content)) as file:
                arrays = {n: file[n] for n in file if n != DIGEST}
            _prepared.setdefault(name, []).append((bare(content), hashed(arrays, hashlib.sha256())))


def varied(kind: type, result: Any, sizes: Any, rng: np.random.Generator) -> Any:
    """Return a result with other numbers that may be, too."""

    def other(array: np.ndarray, of: Any) -> np.ndarray:
        if (of.low == of.high and of.low is not None) or array.dtype.kind not in "if" or of.shape == "D E S S":
            return array  # images, too: they are compressed as they are
        if array.dtype.kind == "i":
            return np.roll(array, rng.integers(array.shape[0]), 0)
        if of.share_of:
            step = 100 / sizes[of.share_of]
            return np.round(array / step + rng.integers(-20, 21, array.shape)).clip(0, sizes[of.share_of]) * step
        low, high = (sizes[b] if isinstance(b, str) else b for b in (of.low, of.high))
        changed = (array * (1 + 0.05 * rng.standard_normal(array.shape))).astype(array.dtype)
        inside = (low is None or changed >= low) & (high is None or changed <= high)
        return np.where(inside, changed, array)

    values = {}
    for name, of in declared(kind).items():
        value = getattr(result, name)
        values[name] = {k: other(a, of) for k, a in value.items()} if isinstance(value, dict) else other(value, of)
    return kind(**values)


def bare(content: bytes) -> bytes:
    """Return a stored repeat without its digest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            if member.filename != f"{DIGEST}.npy":
                new.writestr(member.filename, old.read(member), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def answered(which: StandIn, identity: Identity) -> bytes:
    """Return the bytes of a repeat, which `to_npz` would compress anew."""
    content, of = _prepared[identity.step][which.number]
    own, buffer = np.array(astuple(identity), str), io.BytesIO(content)
    of = hashed({IDENTITY: own}, of.copy())
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        for name, array in ((IDENTITY, own), (DIGEST, np.array(of.hexdigest()))):
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    return buffer.getvalue()


def memory_mib() -> float:
    """Return the memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@click.command(help="Measure the process that runs a study of many repeats which take no time to compute.")
@click.option("--repeats", "count", default=2000, type=click.IntRange(2), show_default=True)
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--folder", default=None, help="for the store, which is deleted at the end")
def main(count: int, dataset: str, folder: str | None) -> None:
    """Run the study, and print what it took."""
    with tempfile.TemporaryDirectory(prefix="driver", dir=folder) as store:
        os.chdir(store)
        os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
        study = Study(repeats=count, dataset=dataset)
        took: dict[str, float] = {}
        memory: dict[str, float] = {}

        def timed(owner: Any, name: str, label: Any) -> None:
            function = getattr(owner, name)

            def call(*args: Any, **more: Any) -> Any:
                what, began = label(*args), time.perf_counter()
                memory.setdefault(f"before {what}", memory_mib())
                try:
                    return function(*args, **more)
                finally:
                    took[what] = took.get(what, 0) + time.perf_counter() - began
                    memory[what] = memory_mib()

            setattr(owner, name, call)

        for code in CODE.values():
            code.summarise = code.real.summarise  # type: ignore[attr-defined]
            timed(code, "summarise", lambda *args, of=code.name: f"{of}: tables")
        timed(runner, "compute_repeats", lambda *args: "repeats")
        timed(runner, "_finish", lambda session, step, logged: f"{step.name}: stored")
        timed(runner, "_register", lambda session, step: "models, part of the last")
        # The repeats that stand for all are made before the first one counts.
        inner = repeats._compute_missing

        def prepare_first(session: Any, *rest: Any) -> Any:
            prepared(session.context)
            memory["before repeats"] = memory_mib()
            took["prepare"], took["own"] = time.perf_counter(), time.thread_time()
            try:
                return inner(session, *rest)
            finally:
                took["prepare"], took["own"] = time.perf_counter() - took["prepare"], time.thread_time() - took["own"]

        repeats._compute_missing = prepare_first  # type: ignore[assignment]
        began = time.perf_counter()
        runner.run("warmstart", study, IDLE)
        all_of_it = time.perf_counter() - began
        stored, own = took.pop("prepare"), took.pop("own")
        took.pop("repeats")
        kept = (memory["repeats"] - memory["before repeats"]) * 2**20 / count
        files = sum(f.stat().st_size for f in Path(store).rglob("repeat_*.npz"))
        print(f"{count} repeats: {count / stored:.1f} repeats/s, {1000 * stored / count:.1f} ms each")
        print(
            f"of this the driver's own thread, without the worker beside it: {1000 * own / count:.1f} ms of a processor"
        )
        print(f"kept: {kept / 1000:.1f} kB per repeat; stored: {files / count / 1000:.0f} kB per repeat")
        for what, seconds in took.items():
            print(f"{what}: {seconds:.1f} s, {memory[what]:.0f} MiB after it")
        print(f"all: {all_of_it:.0f} s; peak memory {peak_mib():.0f} MiB")
        os.chdir("/")


if __name__ == "__main__":
    from benchmarks import driver  # the module that workers know

    driver.main()
