"""Models of runs and their registered versions."""

from collections.abc import Mapping, Sequence

import keras
import mlflow
import mlflow.tensorflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from cnnsim_tf.tracking.patience import call, failures, repeated


def log_model(
    client: MlflowClient, run_id: str, model: keras.Model, example: np.ndarray, requirements: Sequence[str]
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
    pixels, logits = (
        Schema([TensorSpec(np.dtype(np.float32), (-1, *shape[1:]))])
        for shape in (model.input_shape, model.output_shape)
    )
    before, custom = failures(), dict(keras.utils.get_custom_objects())
    # MLflow pickles Keras's global registry into every model. What tensorflow-addons registered there is not part of
    # this model, and with it the model would not load where tensorflow-addons is not installed.
    keras.utils.get_custom_objects().clear()
    try:
        logged = call(
            mlflow.tensorflow.log_model,
            model,
            name="model",
            run_id=run_id,
            signature=ModelSignature(pixels, logits),
            input_example=example,
            pip_requirements=list(requirements),
            keras_model_kwargs={"save_format": "h5", "include_optimizer": False},
        )
    finally:
        keras.utils.get_custom_objects().update(custom)
    if failures() != before:  # begun more than once, perhaps
        experiment = call(client.get_run, run_id).info.experiment_id
        for twin in call(client.search_logged_models, [experiment], f"source_run_id = '{run_id}'"):
            if twin.model_id != logged.model_id:
                call(client.delete_logged_model, twin.model_id)
    return logged.model_uri


@repeated
def stored_model(client: MlflowClient, run_id: str) -> str | None:
    """Return the URI of a run's stored model, or None."""
    outputs = client.get_run(run_id).outputs
    models = outputs.model_outputs if outputs else []
    for model in models:
        try:
            return f"models:/{client.get_logged_model(model.model_id).model_id}"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted since
                raise
    return None


@repeated
def registered_version(client: MlflowClient, name: str, run_id: str) -> str | None:
    """Return the version of a registered model that came from a run, or None."""
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    return str(found[0].version) if found else None


def register_model(
    client: MlflowClient, name: str, model_uri: str, tags: Mapping[str, str], description: str, alias: str
) -> str:
    """Register a stored model as the newest version under a name, let an alias point to it, return the version."""
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
    call(client.set_registered_model_alias, name, alias, version)
    return str(version)


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
