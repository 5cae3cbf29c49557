"""The variants as versions of one registered model."""

from collections.abc import Sequence
from functools import partial

import keras
import mlflow
import numpy as np
import tensorflow as tf
from mlflow.tracking import MlflowClient

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.models import build, pixel_model
from cnnsim_tf.process.terminal import say
from cnnsim_tf.report.formats import plus_minus
from cnnsim_tf.statistics import describe
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart.summary import WarmstartResult, shown_repeat, variants_of

# What loading and serving a model takes; tensorflow-addons is not among it. Whatever TensorFlow's distribution is
# called here, `tensorflow` brings the right one everywhere.
REQUIREMENTS = tuple(f"{package.__name__}=={package.__version__}" for package in (mlflow, tf, keras, np))
EXAMPLES = 2  # test images in the input example
COMPARED = 50  # test images whose logits a stored model must give


def register_variants(
    client: MlflowClient, context: Context, run_id: str, results: Sequence[WarmstartResult]
) -> dict[str, str]:
    """Register the model of every variant's repeat with the median accuracy.

    What is registered already and, loaded back from the store, gives the trained logits, stays; of anything else
    a model is stored and registered anew. A version gets its alias once it has been loaded back.

    Args:
        client: of the tracking store.
        context: of the study.
        run_id: of the warm start run, whose variants' child runs are finished.
        results: of all repeats.

    Returns:
        Version to the id of the variant's run, in the order of variants.

    Raises:
        StudyError: what was registered gives other logits, or cannot be loaded.
    """
    study, data = context.study, context.dataset
    runs = tracking.children(client, run_id, "variant")
    model = build(study.cnn, data.side, data.classes)
    exported, images = pixel_model(model), data.x_test[:COMPARED, ..., None].astype(np.float32)
    name, versions, mended = study.registered_model, {}, []
    for v, variant in enumerate(variants_of(study)):
        variant_run = runs[variant.name].info.run_id
        model.set_weights([w[v] for w in results[shown_repeat(results, v)].final])
        gives = partial(_gives, images, exported(images).numpy())
        there = tracking.registered_versions(client, name, variant_run)
        found = next((each for each in there if gives(f"models:/{name}/{each}")), None)
        if found is None:
            stored = tracking.stored_models(client, variant_run)
            uri = next(filter(gives, stored), None) or _log(client, variant_run, exported, images)
            found = _register(client, context, uri, v, results)
            if not gives(f"models:/{name}/{found}"):
                tracking.delete_version(client, name, found)
                raise StudyError(
                    f"the model of the variant {variant.name!r}, loaded back from the store, does not give what it "
                    "gave: look for what is wrong with the store, then run the same command again"
                )
            tracking.set_alias(client, name, _alias(variant.name), found)
            for each in there:
                tracking.delete_version(client, name, each)
            for each in stored if uri not in stored else ():
                tracking.delete_stored_model(client, each)
            mended += [variant.name] if there or (stored and uri not in stored) else []
        versions[found] = variant_run
    if mended:
        say(f"stored and registered anew, since what was there could not be loaded: {', '.join(mended)}")
    return versions


def _gives(images: np.ndarray, logits: np.ndarray, uri: str) -> bool:
    """Tell whether a stored model gives these logits [n, classes] for images [n, S, S, 1] of 0 to 255."""
    found = tracking.predictions(uri, images)
    scale = max(1.0, float(np.abs(logits).max()))
    return found is not None and found.shape == logits.shape and np.allclose(found, logits, rtol=0, atol=1e-4 * scale)


def _log(client: MlflowClient, run_id: str, model: keras.Model, images: np.ndarray) -> str:
    return tracking.log_model(client, run_id, model, images[:EXAMPLES], REQUIREMENTS)


def _register(client: MlflowClient, context: Context, uri: str, v: int, results: Sequence[WarmstartResult]) -> str:
    """Register the stored model of variant v, and return the version."""
    study, data, variant = context.study, context.dataset, variants_of(context.study)[v]
    accuracy, repeat = np.array([r.test_accuracy[v, -1] for r in results]), shown_repeat(results, v)
    summary = describe(accuracy)
    return tracking.register_model(
        client,
        study.registered_model,
        uri,
        {
            "variant": variant.name,
            "measure": variant.measure or "none",
            "scheme": variant.scheme,
            "dataset": study.dataset,
            "level": f"{study.level:g}",
            "seed": str(study.seed),
            "repeats": str(study.repeats),
            "accuracy_mean": f"{summary.mean:.2f}",
            "accuracy_sd": f"{summary.sd:.2f}",
        },
        f"{variant.name}: {plus_minus(summary.mean, summary.sd)} % test accuracy over {study.repeats} "
        f"repeats; the weights are of repeat {repeat + 1}, the one with the median accuracy "
        f"({accuracy[repeat]:.2f} %).\n\n"
        f"Takes pixel values 0 to 255, float32 [n, {data.side}, {data.side}, 1], and returns logits, "
        f"float32 [n, {data.classes}].",
    )


def _alias(variant: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in variant)


def withdraw_unfinished(client: MlflowClient, name: str, fingerprint: str) -> list[str]:
    """Delete the versions that runs of the same study had registered before they were killed or failed.

    The models are the same, bit for bit, as those of the run that took over, whose versions are registered by now.
    Versions that an alias still points to, which is then the user's own, stay.

    Args:
        client: of the tracking store.
        name: of the registered model.
        fingerprint: of the warm start.

    Returns:
        The versions that were deleted.
    """
    deleted = []
    for ended in tracking.find_ended_early(client, fingerprint):
        for variant_run in tracking.children(client, ended.info.run_id, "variant").values():
            for each in tracking.registered_versions(client, name, variant_run.info.run_id):
                if tracking.delete_version(client, name, each):
                    deleted.append(each)
    return sorted(deleted, key=int)
