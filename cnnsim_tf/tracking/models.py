"""Models of runs and their registered versions."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from cnnsim_tf.tracking.patience import call, failures, is_away, repeated

if TYPE_CHECKING:
    import keras

FILES = "cnnsim.files"  # the tag of a stored model with the digest of its files, once they were found right
OWN = "cnnsim.of_study"  # the tag of a stored model that a study made, from its beginning


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
        The stored model's id.
    """
    import mlflow.tensorflow  # which imports TensorFlow, as does the next

    from cnnsim_tf.exports import plain_keras

    pixels, logits = (
        Schema([TensorSpec(np.dtype(np.float32), (-1, *shape[1:]))])
        for shape in (model.input_shape, model.output_shape)
    )
    before, run = failures(), call(client.get_run, run_id)
    metrics = [Metric.from_proto(m) for m in run.data.to_proto().metrics if m.step == 0]

    def store() -> str:
        # What MLflow's log_model does, in the run's experiment instead of the one that this process is in, and without
        # its trial of the input example: what the store gives back is tried.
        params, tags = run.data.params, {OWN: "true"}
        made = client.create_logged_model(run.info.experiment_id, "model", run_id, tags=tags, params=params)
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        own = [Metric(m.key, m.value, m.timestamp, m.step, made.model_id, run_id=run_id) for m in metrics]
        client.log_batch(run_id, own)
        with tempfile.TemporaryDirectory() as folder:
            mlflow.tensorflow.save_model(
                model,
                f"{folder}/model",
                mlflow_model=Model(made.artifact_location, run_id, model_uuid=made.model_id, model_id=made.model_id),
                signature=ModelSignature(pixels, logits),
                input_example=example,
                pip_requirements=list(requirements),
                keras_model_kwargs={"save_format": "h5", "include_optimizer": False},
            )
            client.log_model_artifacts(made.model_id, f"{folder}/model")
        client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
        return made.model_id

    with plain_keras():  # else MLflow pickles Keras's global registry into the model
        model_id = call(store)
    if failures() != before:  # begun more than once, perhaps
        for twin in call(client.search_logged_models, [run.info.experiment_id], f"source_run_id = '{run_id}'"):
            if twin.model_id != model_id:
                call(client.delete_logged_model, twin.model_id)
    return model_id


@repeated
def predictions(
    client: MlflowClient, uri: str, model_id: str, images: np.ndarray, *, known: bool = True
) -> tuple[np.ndarray, str] | None:
    """Return what a stored model gives, loaded as anybody would, and the digest of its files.

    Args:
        client: of the tracking store.
        uri: models:/…, of the model or of a version of it.
        model_id: of the stored model.
        images: [n, ...] float32.
        known: load it only if its files are those that were confirmed (see confirm_model): what is loaded may run code.

    Returns:
        None where the model is deleted, where it cannot be loaded, or where its files are others.
    """
    import mlflow.artifacts
    import mlflow.tensorflow

    from cnnsim_tf.exports import plain_keras

    try:
        confirmed = client.get_logged_model(model_id).tags.get(FILES)
        with tempfile.TemporaryDirectory() as folder, plain_keras():
            files = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
            digest = _digest(Path(files))
            if known and digest != confirmed:
                return None
            return mlflow.tensorflow.load_model(files)(images, training=False).numpy(), digest
    except Exception as error:  # of files that are missing, cut off or of another kind: MLflow's, h5py's, Keras's
        if is_away(error):
            raise
        return None


@repeated
def confirm_model(client: MlflowClient, model_id: str, digest: str) -> None:
    """Note that a stored model, with files of this digest, is what it should be."""
    client.set_logged_model_tags(model_id, {FILES: digest})


def _digest(folder: Path) -> str:
    """Return a sha256 of the names and contents of a model's files, but for what MLflow adds to those of a version."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.name != REGISTERED_MODEL_META_FILE_NAME):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder)} {len(content)} ".encode() + content)
    return digest.hexdigest()


@repeated
def stored_models(client: MlflowClient, run_id: str) -> list[str]:
    """Return the ids of the models that the study stored in a run, also of those that did not come to their end."""
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return [m.model_id for m in found if {OWN, FILES} & m.tags.keys()]


@repeated
def delete_stored_model(client: MlflowClient, model_id: str) -> None:
    """Delete a stored model."""
    try:
        client.delete_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted by a try before this one
            raise


@repeated
def registered_versions(client: MlflowClient, name: str, run_id: str) -> list[ModelVersion]:
    """Return the versions of a registered model that came from a run, the newest first."""
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def model_of(version: ModelVersion) -> str:
    """Return the id of the stored model that is a version's source."""
    return str(version.source).removeprefix("models:/")


@repeated
def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the aliases of a registered model, each with its version; none where there is no such model."""
    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def register_model(client: MlflowClient, name: str, model_id: str, tags: Mapping[str, str], description: str) -> str:
    """Register a stored model as the newest version under a name, and return the version."""
    model = call(client.get_logged_model, model_id)
    call(_make_registered_model, client, name)
    before = failures()
    version = call(
        client.create_model_version,
        name,
        f"models:/{model_id}",
        model.source_run_id,
        dict(tags),
        description=description,
        model_id=model.model_id,
    ).version
    if failures() != before:  # made more than once, perhaps
        for twin in registered_versions(client, name, str(model.source_run_id)):
            if twin.version != version:
                delete_version(client, name, twin.version)
    return str(version)


@repeated
def set_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Let an alias of a registered model point to a version."""
    client.set_registered_model_alias(name, alias, version)


@repeated
def set_description(client: MlflowClient, name: str, version: str, tags: Mapping[str, str], description: str) -> None:
    """Give a version of a registered model these tags, beside others that it has, and this description."""
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    client.update_model_version(name, version, description)


@repeated
def delete_version(client: MlflowClient, name: str, version: str) -> None:
    """Delete a version of a registered model unless an alias points to it."""
    try:
        if not client.get_model_version(name, version).aliases:
            client.delete_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted by a try before this one
            raise


def _make_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Variants of the warm start study, one version per variant.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
