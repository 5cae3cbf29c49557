"""Trained models as versions of one registered model."""

from collections.abc import Iterable, Sequence

import keras
import mlflow
import numpy as np
import tensorflow as tf
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.process.terminal import say
from cnnsim_tf.steps.step import TrainedModel

# What loading and serving a model takes; tensorflow-addons is not among it. Whatever TensorFlow's distribution is
# called here, `tensorflow` brings the right one everywhere.
REQUIREMENTS = tuple(f"{package.__name__}=={package.__version__}" for package in (mlflow, tf, keras, np))
EXAMPLES = 2  # test images in the input example


def register(
    client: MlflowClient,
    name: str,
    run_id: str,
    role: str,
    models: Iterable[TrainedModel],
    *,
    ended: Iterable[str] = (),
    again: bool = False,
) -> dict[str, str]:
    """Register models, each in its child run.

    What is registered already and, loaded back from the store, has the files that were stored and gives the trained
    logits, stays; of anything else a model is stored and registered anew. A version gets its alias once it has been
    loaded back. Other versions of the same models, bit for bit, are deleted, and their aliases, also a user's own,
    moved.

    Args:
        client: of the tracking store.
        name: of the registered model.
        run_id: of the run whose child runs, finished, are called as the models are.
        role: of the child runs.
        models: looked at one after the other, so that they may share their weights' memory.
        ended: ids of runs of the same study that did not finish, or are deleted or damaged.
        again: the run was found finished: what has to be done is said, and an alias that points to a version of
            another run, where the user or another study has put it, stays.

    Returns:
        Version to the id of the child's run, in the order of the models.

    Raises:
        StudyError: what was registered gives other logits, or cannot be loaded.
    """
    runs = tracking.children(client, run_id, role)
    every = {i: child for of in (run_id, *ended) for i, child in tracking.every_child(client, of, role).items()}
    aliases = tracking.aliases(client, name)
    versions: dict[str, str] = {}
    done: dict[str, list[str]] = {}
    elsewhere: list[str] = []
    withdrawn: list[str] = []
    for trained in models:
        own_run, alias = runs[trained.name].info.run_id, _alias(trained.name)
        ids = [own_run, *(i for i, child in every.items() if child == trained.name and i != own_run)]
        there = [
            version
            for id_ in ids
            for version in tracking.registered_versions(client, name, id_)
            # Not what the user has put into the same run.
            if trained.tags.keys() & version.tags.keys()
            or tracking.model_of(version) in tracking.stored_models(client, id_)
        ]
        logits = trained.model(trained.images, training=False).numpy()
        version, model_id, mended = _registered(client, name, own_run, trained, logits, there, aliases.get(alias))
        others = [str(each.version) for each in there if str(each.version) != version]
        moved = [a for a, at in aliases.items() if at in others or (a == alias and at != version and not again)]
        for each in moved if alias in aliases else [*moved, alias]:
            tracking.set_alias(client, name, each, version)
            aliases[each], mended = version, mended or "given their aliases"
        if aliases[alias] != version:
            elsewhere.append(alias)
        for each in others:
            tracking.delete_version(client, name, each)
        withdrawn += others
        for each in set(tracking.stored_models(client, own_run)) - {model_id}:
            tracking.delete_stored_model(client, each)
        if mended:
            done.setdefault(mended, []).append(trained.name)
        versions[version] = own_run
    if again and done:
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in done.items())
        say(f"{name} lacked something or had it otherwise than it was stored; {said}")
    if withdrawn:
        say(f"deleted from {name} what other versions took the place of: {', '.join(sorted(withdrawn, key=int))}")
    if elsewhere:
        said = ", ".join(f"{alias} (version {aliases[alias]})" for alias in elsewhere)
        say(f"aliases of {name} that point to versions of other runs stay there: {said}")
    return versions


def _registered(
    client: MlflowClient,
    name: str,
    run_id: str,
    trained: TrainedModel,
    logits: np.ndarray,
    there: Sequence[ModelVersion],
    aliased: str | None,
) -> tuple[str, str, str]:
    """Return the version of a model and the id of the stored model, both made where need be, and what was done."""

    def gives(uri: str, model_id: str, *, known: bool = True) -> str | None:
        """Return the digest of a stored model's files if it gives the logits [n, classes]."""
        loaded = tracking.predictions(client, uri, model_id, trained.images, known=known)
        scale = max(1.0, float(np.abs(logits).max()))
        if loaded is None or loaded[0].shape != logits.shape:
            return None
        return loaded[1] if np.allclose(loaded[0], logits, rtol=0, atol=1e-4 * scale) else None

    for each in sorted(there, key=lambda each: str(each.version) != aliased):  # of twins the one with the alias
        version, model_id = str(each.version), tracking.model_of(each)
        if each.run_id == run_id and gives(f"models:/{name}/{version}", model_id):
            if trained.tags.items() <= each.tags.items() and trained.description in (each.description or ""):
                return version, model_id, ""
            tracking.set_description(client, name, version, trained.tags, trained.description)
            return version, model_id, "given their tags and descriptions"
    stored = next((m for m in tracking.stored_models(client, run_id) if gives(f"models:/{m}", m)), None)
    model_id = stored or tracking.log_model(client, run_id, trained.model, trained.images[:EXAMPLES], REQUIREMENTS)
    version = tracking.register_model(client, name, model_id, trained.tags, trained.description)
    if not (digest := gives(f"models:/{name}/{version}", model_id, known=bool(stored))):
        tracking.delete_version(client, name, version)
        raise StudyError(
            f"the model {trained.name!r}, loaded back from the store, does not give what it gave: look for what is "
            "wrong with the store, then run the same command again"
        )
    tracking.confirm_model(client, model_id, digest)
    return version, model_id, "registered anew" if stored else "stored and registered anew"


def _alias(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
