"""The variants as versions of one registered model."""

from collections.abc import Sequence

import keras
import mlflow
import numpy as np
import tensorflow as tf
from mlflow.tracking import MlflowClient

from cnnsim_tf import tracking
from cnnsim_tf.cnn import build, pixel_model
from cnnsim_tf.report import plus_minus
from cnnsim_tf.statistics import describe
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.warmstart import WarmstartResult, shown_repeat, variants_of

# What loading and serving a model takes; tensorflow-addons is not among it. Whatever TensorFlow's distribution is
# called here, `tensorflow` brings the right one everywhere.
REQUIREMENTS = tuple(f"{package.__name__}=={package.__version__}" for package in (mlflow, tf, keras, np))
EXAMPLES = 2  # test images in the input example


def register_variants(
    client: MlflowClient, context: Context, run_id: str, results: Sequence[WarmstartResult]
) -> dict[str, str]:
    """Register the model of every variant's repeat with the median accuracy; those that are registered stay.

    Args:
        client: of the tracking store.
        context: of the study.
        run_id: of the warm start run, whose variants' child runs are finished.
        results: of all repeats.

    Returns:
        Version to the id of the variant's run, in the order of variants.
    """
    study, data = context.study, context.dataset
    runs = tracking.children(client, run_id, "variant")
    versions = {}
    for v, variant in enumerate(variants_of(study)):
        variant_run = runs[variant.name].info.run_id
        registered = tracking.registered_version(client, study.registered_model, variant_run)
        if registered is None:
            repeat = shown_repeat(results, v)
            uri = tracking.stored_model(client, variant_run)
            if uri is None:
                model = build(study.cnn, data.side, data.classes)
                model.set_weights([w[v] for w in results[repeat].final])
                example = data.x_test[:EXAMPLES, ..., None].astype(np.float32)
                uri = tracking.log_model(client, variant_run, pixel_model(model), example, REQUIREMENTS)
            accuracy = np.array([r.test_accuracy[v, -1] for r in results])
            summary = describe(accuracy)
            registered = tracking.register_model(
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
                "".join(c if c.isalnum() or c in "-_" else "_" for c in variant.name),
            )
        versions[registered] = variant_run
    return versions


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
            version = tracking.registered_version(client, name, variant_run.info.run_id)
            if version and tracking.delete_version(client, name, version):
                deleted.append(version)
    return sorted(deleted, key=int)
