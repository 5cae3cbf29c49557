"""Trained models as versions of one registered model."""

from collections.abc import Iterable
from functools import partial

import keras
import mlflow
import numpy as np
import tensorflow as tf
from mlflow.tracking import MlflowClient

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.process.terminal import say
from cnnsim_tf.steps.step import TrainedModel

# What loading and serving a model takes; tensorflow-addons is not among it. Whatever TensorFlow's distribution is
# called here, `tensorflow` brings the right one everywhere.
REQUIREMENTS = tuple(f"{package.__name__}=={package.__version__}" for package in (mlflow, tf, keras, np))
EXAMPLES = 2  # test images in the input example


def register(client: MlflowClient, name: str, run_id: str, role: str, models: Iterable[TrainedModel]) -> dict[str, str]:
    """Register models, each in its child run.

    What is registered already and, loaded back from the store, gives the trained logits, stays; of anything else
    a model is stored and registered anew. A version gets its alias once it has been loaded back.

    Args:
        client: of the tracking store.
        name: of the registered model.
        run_id: of the run whose child runs, finished, are called as the models are.
        role: of the child runs.
        models: looked at one after the other, so that they may share their weights' memory.

    Returns:
        Version to the id of the child's run, in the order of the models.

    Raises:
        StudyError: what was registered gives other logits, or cannot be loaded.
    """
    runs = tracking.children(client, run_id, role)
    versions, mended = {}, []
    for trained in models:
        own_run = runs[trained.name].info.run_id
        gives = partial(_gives, trained.images, trained.model(trained.images).numpy())
        there = tracking.registered_versions(client, name, own_run)
        found = next((each for each in there if gives(f"models:/{name}/{each}")), None)
        if found is None:
            stored = tracking.stored_models(client, own_run)
            uri = next(filter(gives, stored), None) or tracking.log_model(
                client, own_run, trained.model, trained.images[:EXAMPLES], REQUIREMENTS
            )
            found = tracking.register_model(client, name, uri, trained.tags, trained.description)
            if not gives(f"models:/{name}/{found}"):
                tracking.delete_version(client, name, found)
                raise StudyError(
                    f"the model of the {role} {trained.name!r}, loaded back from the store, does not give what it "
                    "gave: look for what is wrong with the store, then run the same command again"
                )
            tracking.set_alias(client, name, _alias(trained.name), found)
            for each in there:
                tracking.delete_version(client, name, each)
            for each in stored if uri not in stored else ():
                tracking.delete_stored_model(client, each)
            mended += [trained.name] if there or (stored and uri not in stored) else []
        versions[found] = own_run
    if mended:
        say(f"stored and registered anew, since what was there could not be loaded: {', '.join(mended)}")
    return versions


def _gives(images: np.ndarray, logits: np.ndarray, uri: str) -> bool:
    """Tell whether a stored model gives these logits [n, classes] for images [n, S, S, 1] of 0 to 255."""
    found = tracking.predictions(uri, images)
    scale = max(1.0, float(np.abs(logits).max()))
    return found is not None and found.shape == logits.shape and np.allclose(found, logits, rtol=0, atol=1e-4 * scale)


def _alias(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def withdraw_unfinished(client: MlflowClient, name: str, fingerprint: str, role: str) -> list[str]:
    """Delete the versions that runs of the same study had registered before they were killed or failed.

    The models are the same, bit for bit, as those of the run that took over, whose versions are registered by now.
    Versions that an alias still points to, which is then the user's own, stay.

    Args:
        client: of the tracking store.
        name: of the registered model.
        fingerprint: of the step.
        role: of the child runs whose models they are.

    Returns:
        The versions that were deleted.
    """
    deleted = []
    for ended in tracking.find_ended_early(client, fingerprint):
        for child in tracking.children(client, ended.info.run_id, role).values():
            for each in tracking.registered_versions(client, name, child.info.run_id):
                if tracking.delete_version(client, name, each):
                    deleted.append(each)
    return sorted(deleted, key=int)
