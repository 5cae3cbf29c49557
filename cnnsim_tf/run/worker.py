"""What a worker computes and checks: steps of one repeat, from names, seeds and digests, without any data."""

import hashlib
import importlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnsim_tf import datasets
from cnnsim_tf.errors import StudyError
from cnnsim_tf.passes import Progress
from cnnsim_tf.pipeline import Step, registry_of
from cnnsim_tf.process import settle
from cnnsim_tf.process.users_code import staying
from cnnsim_tf.run.storage import Identity, to_npz
from cnnsim_tf.steps.step import Context, without_passing
from cnnsim_tf.study import LOCAL, Study

if TYPE_CHECKING:
    from cnnsim_tf.stored_models import Networks

Digests = tuple[tuple[str, str], ...]
KEPT = 4  # contexts: a worker may serve several studies in turn
PACKAGE = "cnnsim_tf"  # the name under which the digest of this package's source stands among the software

_contexts: dict["Recipe", Context] = {}
_first_seen: dict[str, str] = {}  # digests of the user's functions as this process imported them
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Recipe:
    """A study, and digests of what its parameters only name."""

    study: Study
    digests: Digests  # of the dataset's content and of the user's own functions
    software: Digests
    threads: int  # that a repeat may use
    donors: bytes = field(default=b"", compare=False)  # of the user's own, whose digest is in `digests`


def compute(
    recipe: Recipe,
    repeat: int,
    steps: Sequence[Step],
    stored: Mapping[str, Any],
    recipes: Mapping[str, str],
    progress: Progress,
) -> dict[str, Any]:
    """Compute steps of one repeat, each from the results of those before it.

    Args:
        recipe: of the study.
        repeat: its number, from 1.
        steps: to compute, in the order in which data flows.
        stored: results of the other steps that these need, by name.
        recipes: fingerprints of the steps' repeats, by name.
        progress: told of every image pass.

    Returns:
        What became of the repeat, without any object: `results`, the bytes of each step's .npz; `error`, the mistake of
        the user's that ended it, or None; `seconds` that each step took.
    """
    made: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    error = None
    try:
        with staying():  # else Dask's worker would leave, and the study wait for it
            context = context_of(recipe)
            for step in steps:
                inputs = {**stored, **made}
                # What a step only passes on, the next one takes out of its inputs and lets go of when it is done.
                made = {name: without_passing(result) for name, result in made.items()}
                started = time.perf_counter()
                made[step.name] = step.code.compute(context, repeat, inputs, progress)
                seconds[step.name] = time.perf_counter() - started
                del inputs
    except StudyError as mistake:
        error = str(mistake)
    results = {name: to_npz(result, Identity(name, repeat, recipes[name])) for name, result in made.items()}
    return {"results": results, "error": error, "seconds": seconds}


def recipe_of(context: Context, digests: dict[str, str], software: Digests) -> Recipe:
    """Return the recipe of this process's context, which it takes for that recipe from now on."""
    donors = context.own.packed() if context.own and context.study.scheduler != LOCAL else b""
    recipe = Recipe(context.study, tuple(sorted(digests.items())), software, context.threads, donors)
    _contexts[recipe] = context
    return recipe


def context_of(recipe: Recipe) -> Context:
    """Return the context of a recipe, made once per process and study.

    Raises:
        StudyError: the dataset, the user's functions or the software are not the same here.
    """
    with _one_at_a_time:
        if recipe not in _contexts:
            while len(_contexts) >= KEPT:
                del _contexts[next(iter(_contexts))]
            _contexts[recipe] = _made(recipe)
        return _contexts[recipe]


@lru_cache
def software_of(modules: tuple[str, ...]) -> Digests:
    """Return the versions of what computes, and a digest of this package's source, as this process found it first.

    The modules say their versions themselves, as TensorFlow's distribution has other names on other platforms.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)} ".encode() + file.read_bytes())
    return (*((name, importlib.import_module(name).__version__) for name in modules), (PACKAGE, digest.hexdigest()))


def _made(recipe: Recipe) -> Context:
    study, names = recipe.study, tuple(name for name, _ in recipe.software if name != PACKAGE)
    here = dict(software_of(names))
    for name, there in recipe.software:
        if here[name] != there:
            raise StudyError(
                f"a worker has another {name} ({here[name][:12]}) than the study ({there[:12]}): start it again in an "
                "environment and a project folder like the study's"
            )
    if "tensorflow" in names:
        from cnnsim_tf.run.device import configure

        configure(study.device)
    try:
        dataset = datasets.load(study.dataset)
        own = _own_donors(recipe)
        found = {name: _digest_here(name, dataset, own) for name, _ in recipe.digests}
    except StudyError as error:
        raise StudyError(f"a worker does not have what the study needs: {error}") from error
    for name, there in recipe.digests:
        # A module stays as it was when it was imported, whatever becomes of its file.
        first = found[name] if name in ("dataset", "donors") else _first_seen.setdefault(name, found[name])
        if not first == found[name] == there:
            raise StudyError(
                f"a worker has another {name} than the study: let it see the same files and start it again"
            )
    settle()
    return Context(study, replace(dataset, classes=own.classes) if own else dataset, recipe.threads, own)


def _own_donors(recipe: Recipe) -> "Networks | None":
    """Return the donors of the user's own that a recipe brings, their architecture among the CNNs."""
    if not recipe.donors:
        return None
    from cnnsim_tf.stored_models import Networks  # which imports TensorFlow

    donors = Networks.unpacked(recipe.donors)
    donors.register()
    return donors


def _digest_here(name: str, dataset: datasets.Dataset, own: "Networks | None") -> str:
    """Return the digest of the dataset, of donors, or of a user's own function, by its name in a recipe."""
    parameter, _, entry = name.partition(" ")
    if entry:
        return registry_of(parameter).source_digest(entry) or ""
    return own.digest if own and parameter == "donors" else dataset.digest
