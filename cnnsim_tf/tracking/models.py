"""Models of runs and their registered versions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from cnnsim_tf.tracking.patience import call, failures, is_away, repeated

if TYPE_CHECKING:
    import keras


def log_model(
    client: MlflowClient, run_id: str, model: "keras.Model", example: np.ndarray, requirements: Sequence[str]
) -> str:
    """Store a Keras model in a run, as `model`, with its signature, an input example and no pickle in it.

    Args:
        client: of the tracking store.
        run_id: of the run.
        model: from float32 [n, ...] to float32 [n, ...].
        example: input [n, ...] float32.
        requirements: pip requirements for loading it.

    Returns:
        The stored model's URI.
    """
    import mlflow.tensorflow  # which imports TensorFlow, as does the next

    from cnnsim_tf.models import plain_keras

    pixels, logits = (
        Schema([TensorSpec(np.dtype(np.float32), (-1, *shape[1:]))])
        for shape in (model.input_shape, model.output_shape)
    )
    before, run = failures(), call(client.get_run, run_id)

    def store() -> str:
        # Made here: MLflow's log_model would make it in the experiment that this process is in, not in the run's.
        made = client.create_logged_model(run.info.experiment_id, "model", run_id, params=run.data.params)
        mlflow.tensorflow.log_model(
            model,
            name="model",
            run_id=run_id,
            model_id=made.model_id,
            signature=ModelSignature(pixels, logits),
            input_example=example,
            pip_requirements=list(requirements),
            keras_model_kwargs={"save_format": "h5", "include_optimizer": False},
        )
        return made.model_id

    with plain_keras():  # else MLflow pickles Keras's global registry into the model
        model_id = call(store)
    if failures() != before:  # begun more than once, perhaps
        for twin in call(client.search_logged_models, [run.info.experiment_id], f"source_run_id = '{run_id}'"):
            if twin.model_id != model_id:
                call(client.delete_logged_model, twin.model_id)
    return f"models:/{model_id}"


@repeated
def predictions(uri: str, images: np.ndarray) -> np.ndarray | None:
    """Return what a stored model gives, loaded as anybody would, or None where it cannot be loaded.

    Args:
        uri: models:/…
        images: [n, ...] float32.
    """
    import mlflow.tensorflow

    from cnnsim_tf.models import plain_keras

    try:
        with plain_keras():
            return mlflow.tensorflow.load_model(uri)(images).numpy()
    except (
        Exception
    ) as error:  # whatever MLflow, h5py and Keras make of files that are missing, cut off or another kind
        if is_away(error):
            raise
        return None


@repeated
def stored_models(client: MlflowClient, run_id: str) -> list[str]:
    """Return the URIs of a run's stored models."""
    outputs = client.get_run(run_id).outputs
    uris = []
    for model_id in dict.fromkeys(m.model_id for m in (outputs.model_outputs if outputs else [])):
        try:
            uris.append(f"models:/{client.get_logged_model(model_id).model_id}")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted since
                raise
    return uris


@repeated
def delete_stored_model(client: MlflowClient, uri: str) -> None:
    """Delete a stored model."""
    client.delete_logged_model(uri.removeprefix("models:/"))


@repeated
def registered_versions(client: MlflowClient, name: str, run_id: str) -> list[str]:
    """Return the versions of a registered model that came from a run, the newest first."""
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    return sorted((str(version.version) for version in found), key=int, reverse=True)


def register_model(client: MlflowClient, name: str, model_uri: str, tags: Mapping[str, str], description: str) -> str:
    """Register a stored model as the newest version under a name, and return the version."""
    model = call(client.get_logged_model, model_uri.removeprefix("models:/"))
    call(_make_registered_model, client, name)
    before = failures()
    version = call(
        client.create_model_version,
        name,
        model_uri,
        model.source_run_id,
        dict(tags),
        description=description,
        model_id=model.model_id,
    ).version
    if failures() != before:  # made more than once, perhaps
        query = f"name='{name}' and run_id='{model.source_run_id}'"
        for twin in call(client.search_model_versions, query):
            if twin.version != version:
                call(client.delete_model_version, name, twin.version)
    return str(version)


@repeated
def set_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Let an alias of a registered model point to a version."""
    client.set_registered_model_alias(name, alias, version)


@repeated
def delete_version(client: MlflowClient, name: str, version: str) -> bool:
    """Delete a version of a registered model that no alias points to; return whether it is gone."""
    try:
        if client.get_model_version(name, version).aliases:
            return False
        client.delete_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted by a try before this one
            raise
    return True


def _make_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Variants of the warm start study, one version per variant.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
