"""What a worker needs to know to compute any repeat of a study: names, seeds and digests, no data."""

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy
import tensorflow as tf

from cnnsim_tf import cnn, datasets, noise
from cnnsim_tf.errors import StudyError
from cnnsim_tf.layer_measures import LAYER_MEASURES
from cnnsim_tf.measures import MEASURES
from cnnsim_tf.process import settle
from cnnsim_tf.registry import Registry
from cnnsim_tf.run.device import configure
from cnnsim_tf.schemes import SCHEMES
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart import summary as warmstart
from cnnsim_tf.study import Study

Digests = tuple[tuple[str, str], ...]

REGISTRIES: dict[str, Registry[Any]] = {
    "noises": noise.NOISES,
    "measures": MEASURES,
    "layer_measures": LAYER_MEASURES,
    "cnn": cnn.CNNS,
    "variants": SCHEMES,
}
# Whose versions show in results. They say them themselves, as TensorFlow's distribution has other names on other
# platforms; tensorflow-addons is not among them, as the results are the same without it.
NUMERIC = (tf, keras, np, scipy)
KEPT = 4  # contexts: a worker may serve several studies in turn

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


def recipe_of(context: Context, digests: dict[str, str]) -> Recipe:
    """Return the recipe of this process's context, which it takes for that recipe from now on."""
    recipe = Recipe(context.study, tuple(sorted(digests.items())), software(), context.threads)
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


def source_digests(study: Study, parameters: Sequence[str]) -> dict[str, str]:
    """Return digests of the user's own functions that parameters name; unknown names are errors here."""
    entries: dict[str, Iterable[str]] = {
        "noises": study.noises,
        "cnn": [study.cnn],
        "measures": study.measures,
        "layer_measures": study.layer_measures,
    }
    if "variants" in parameters:
        entries["variants"] = {v.scheme: None for v in warmstart.variants_of(study)}
    digests = {}
    for parameter in (p for p in entries if p in parameters):
        for entry in entries[parameter]:
            REGISTRIES[parameter].get(entry)
            if source := REGISTRIES[parameter].source_digest(entry):
                digests[f"{parameter} {entry}"] = source
    return digests


@lru_cache
def software() -> Digests:
    """Return the versions of what computes, and a digest of this package's source, as this process found it first."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)} ".encode() + file.read_bytes())
    return (*((package.__name__, package.__version__) for package in NUMERIC), ("cnnsim_tf", digest.hexdigest()))


def _made(recipe: Recipe) -> Context:
    study = recipe.study
    here = dict(software())
    for name, there in recipe.software:
        if here[name] != there:
            raise StudyError(
                f"a worker has another {name} ({here[name][:12]}) than the study ({there[:12]}): start it again in an "
                "environment and a project folder like the study's"
            )
    configure(study.device)
    try:
        dataset = datasets.load(study.dataset)
        found = {name: _digest_here(name, dataset) for name, _ in recipe.digests}
    except StudyError as error:
        raise StudyError(f"a worker does not have what the study needs: {error}") from error
    for name, there in recipe.digests:
        # A module stays as it was when it was imported, whatever becomes of its file.
        first = found[name] if name == "dataset" else _first_seen.setdefault(name, found[name])
        if not first == found[name] == there:
            raise StudyError(
                f"a worker has another {name} than the study: let it see the same files and start it again"
            )
    settle()
    return Context(study, dataset, recipe.threads)


def _digest_here(name: str, dataset: datasets.Dataset) -> str:
    """Return the digest of the dataset, or of a user's own function by its name in a recipe."""
    parameter, _, entry = name.partition(" ")
    return REGISTRIES[parameter].source_digest(entry) or "" if entry else dataset.digest
