"""What the warm start step computes: every variant's initial weights, their training, tests, and a look inside."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np

from cnnsim_tf.datasets import to_unit
from cnnsim_tf.errors import ParameterError
from cnnsim_tf.exports import check_export
from cnnsim_tf.model_notes import UNSETTLED, left_of_start
from cnnsim_tf.models import fresh_weights
from cnnsim_tf.networks import batch_gradients, channel_statistics, first_gradient_norms, layer_state, normalised
from cnnsim_tf.passes import Progress
from cnnsim_tf.schemes import Ingredients, donor_of, get_scheme, make_weights, variants_of
from cnnsim_tf.seeds import integer_seed, rng
from cnnsim_tf.steps.arrays import Array, loss
from cnnsim_tf.steps.noising import NoisingResult
from cnnsim_tf.steps.noising import check as check_noising
from cnnsim_tf.steps.noising import compute as compute_noising
from cnnsim_tf.steps.similarity.repeat import SimilarityResult, choice_of, donors_used
from cnnsim_tf.steps.step import PROBE_IMAGES, Context
from cnnsim_tf.steps.subset_training import SubsetTrainingResult, donors_in, noised_subsets, tested_on_noises
from cnnsim_tf.study import Study
from cnnsim_tf.training import curve_points, evaluate, train

FIRST_STEPS = 10  # of training whose gradients are looked at


@dataclass(frozen=True)
class WarmstartResult:
    """One repeat: its V variants, L layers; accuracies in percent."""

    # By name in Keras's order, before and after target training.
    initial: Annotated[dict[str, np.ndarray], Array("V weights", np.float32, kept="kernels")]
    final: Annotated[dict[str, np.ndarray], Array("V weights", np.float32, kept="kernels")]
    epoch_loss: Annotated[np.ndarray, loss("V target_epochs")]  # mean over the epoch's images while training
    # Batches after which the next three were taken.
    points: Annotated[np.ndarray, Array("P", np.int64, low="points", high="points")]
    train_loss: Annotated[np.ndarray, loss("V P")]  # mean over the images since the previous point
    test_loss: Annotated[np.ndarray, loss("V P")]  # on clean test data
    # The last one is the final accuracy.
    test_accuracy: Annotated[np.ndarray, Array("V P", np.float64, share_of="T")]
    start_loss: Annotated[np.ndarray, loss("V")]  # on clean test data before target training
    start_accuracy: Annotated[np.ndarray, Array("V", np.float64, share_of="T")]
    noise_loss: Annotated[np.ndarray, loss("V N")]  # of the final weights on every noise's test set
    noise_accuracy: Annotated[np.ndarray, Array("V N", np.float64, share_of="T")]
    # Units that give 0 for every probe image, before (0) and after (1) training.
    dead: Annotated[np.ndarray, Array("2 V L", np.int64, low=0, high="units")]
    # Of the layers' outputs on the probe images, which overflow where training all but diverged.
    activation_mean: Annotated[np.ndarray, Array("2 V L", np.float64, finite=False)]
    activation_sd: Annotated[np.ndarray, Array("2 V L", np.float64, low=0, finite=False)]
    # At the first S training steps; NaN after the end of the epoch.
    gradient_norms: Annotated[np.ndarray, Array("V S L", np.float64, low=0, finite=False)]


def sizes(context: Context) -> dict[str, Any]:
    """Return what the names in the result's declaration stand for."""
    study = context.study
    points = curve_points(target_passes(context), study.batch_size, study.target_epochs)
    return {
        "V": len(study.variants),
        "N": len(study.noises),
        "target_epochs": study.target_epochs,
        "P": len(points),
        "points": points,
        "T": len(context.dataset.x_test),
        "S": FIRST_STEPS,
        "L": len(context.layers),
        "units": np.array([units for _, units in context.layers]),
        "weights": context.weight_shapes,
        "kernels": context.kernel_names,
    }


def controls_of(study: Study) -> dict[str, str]:
    """Return, of variants with a measure, the control without one: "" where their scheme has none."""
    return {v.name: get_scheme(v.scheme).control for v in variants_of(study) if v.measure}


def donors_of(context: Context, v: int) -> int:
    """Return from how many donors variant v takes weights."""
    variant = variants_of(context.study)[v]
    return {"none": 0, "one": 1, "all": len(context.donors)}[get_scheme(variant.scheme).donors]


def target_passes(context: Context) -> int:
    """Return how many images a variant trains on in one epoch."""
    return context.study.target_images or _target_size(context)


def _target_size(context: Context) -> int:
    """Return how many images there are to train variants on."""
    subset = len(context.dataset.y_train) // len(context.study.noises)
    noisy = subset * len(context.study.noises)
    clean = len(context.dataset.y_train)
    return {"clean": clean, "noisy": noisy, "mixed": clean + noisy}[context.study.target]


def check(context: Context) -> list[str]:
    """Return a sentence where training is too short for batch normalisation to be tested as it was trained.

    Raises:
        ParameterError: there are fewer target images than variants are to see.
        StudyError: models could not be registered, or a scheme cannot be used with the network.
    """
    if (wanted := context.study.target_images) > (size := _target_size(context)):
        raise ParameterError(
            f"target_images is {wanted:,}, but the target data (target {context.study.target}) have {size:,} images: "
            "give fewer, or 0 for all"
        )
    if context.study.target != "clean":
        check_noising(context)
    check_export(*context.cnn)
    schemes = [get_scheme(v.scheme) for v in variants_of(context.study)]
    if any(scheme.needs_chain for scheme in schemes):
        _ = context.hidden  # raises where units cannot be followed from layer to layer
    if any(scheme.needs_layers for scheme in schemes):
        _ = context.hidden_layers  # raises where they cannot be told from the logits
    for v in variants_of(context.study):
        if (donor_of(v.scheme) or 0) > len(context.donors):
            raise ParameterError(f"variants name {v.scheme}, but there are {len(context.donors)} donors")
    for control in {scheme.control for scheme in schemes if scheme.control}:
        if get_scheme(control).needs_measure:
            raise ParameterError(f"a scheme names {control!r} as its control, which needs a measure: name one without")
    return [said] if (said := unsettled(context)) else []


def unsettled(context: Context) -> str:
    """Return a sentence where target training is too short for moving statistics to settle, or ''."""
    batches = -(-target_passes(context) // context.study.batch_size) * context.study.target_epochs
    if (left := left_of_start(context.model, batches)) < UNSETTLED:
        return ""
    return (
        f"after {batches:,} batch{'es' * (batches > 1)} of target training batch normalisation still has "
        f"{100 * left:.0f} % of the moving statistics that it started with: random_init, whose statistics start fresh, "
        "tests worse for that alone, so use a smaller momentum or more target_epochs, or compare with centred_fresh"
    )


def passes(context: Context) -> int:
    """Return how many images all variants train on."""
    return target_passes(context) * context.study.target_epochs * len(context.study.variants)


def compute(context: Context, repeat: int, inputs: dict[str, Any], progress: Progress) -> WarmstartResult:
    """Make every variant's initial weights and train all of them on the target data, in the same order."""
    study, data = context.study, context.dataset
    images, labels = _target(context, repeat, inputs.get("noising"))
    n, count = len(labels), len(study.variants)

    def order_of(epoch: int) -> np.ndarray:
        return rng(study.seed, repeat, f"batches of target epoch {epoch + 1}").permutation(n)

    donors, similarity, first_order = donors_in(inputs), inputs["similarity"], order_of(0)
    initial = initial_weights(context, repeat, donors, similarity, (images, labels, first_order))
    look = partial(layer_state, study.cnn, images=context.probe_images, classes=data.classes)
    before = look(initial)
    norms = first_gradient_norms(
        study.cnn,
        initial,
        images,
        labels,
        first_order,
        classes=data.classes,
        batch_size=study.batch_size,
        learning_rate=study.learning_rate,
        steps=FIRST_STEPS,
        seed=draws_seed(context, repeat),
    )
    start_loss, start_accuracy = evaluate(
        study.cnn, initial, context.test_images, data.y_test, data.classes, **context.engine
    )
    trained = train(
        study.cnn,
        initial,
        [images],
        [labels],
        lambda epoch: np.broadcast_to(order_of(epoch), (count, n)),
        classes=data.classes,
        epochs=study.target_epochs,
        batch_size=study.batch_size,
        learning_rate=study.learning_rate,
        seeds=[draws_seed(context, repeat)] * count,
        points=curve_points(n, study.batch_size, study.target_epochs).tolist(),
        test=(context.test_images, data.y_test),
        progress=progress,
        **context.engine,
    )
    del images, labels  # not in memory while the noised test sets are made
    after = look(trained.weights)
    noise_loss, noise_accuracy = tested_on_noises(context, repeat, trained.weights, similarity.noised_tests)
    return WarmstartResult(
        initial=context.named(initial),
        final=context.named(trained.weights),
        epoch_loss=trained.epoch_loss,
        points=trained.points,
        train_loss=trained.train_loss,
        test_loss=trained.test_loss,
        test_accuracy=trained.test_accuracy,
        start_loss=start_loss,
        start_accuracy=start_accuracy,
        noise_loss=noise_loss,
        noise_accuracy=noise_accuracy,
        dead=np.stack([before.dead, after.dead]),
        activation_mean=np.stack([before.mean, after.mean]),
        activation_sd=np.stack([before.sd, after.sd]),
        gradient_norms=norms,
    )


def draws_seed(context: Context, repeat: int) -> int:
    """Return the seed of what random layers draw in target training, the same for all variants."""
    return integer_seed(context.study.seed, repeat, "random layers of target training")


def initial_weights(
    context: Context,
    repeat: int,
    donors: SubsetTrainingResult,
    similarity: SimilarityResult,
    target: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> list[np.ndarray]:
    """Return the variants' initial weights, each [V, ...]: what a variant does not transplant, all of them share.

    Args:
        context: of the study.
        repeat: its number, from 1.
        donors: of the repeat.
        similarity: of the repeat.
        target: images, float32 in [-1, 1] or uint8 of 0 to 255, and labels [N] that the variants will be trained on,
            and in which order [N] in the first epoch. What schemes learn of them is in that order too: as they are
            stored, noisy images of a kind stand together.
    """
    study, data = context.study, context.dataset
    seed = integer_seed(study.seed, repeat, "fresh weights")
    fresh = fresh_weights(study.cnn, data.side, data.classes, seed, data.channels)
    used, count = donors_used(donors, similarity), len(context.donors)
    images, labels, order = target
    some = order[:PROBE_IMAGES]
    made = []
    for variant in variants_of(study):
        m = study.measures.index(variant.measure) if variant.measure else None
        ingredients = Ingredients(
            fresh,
            used,
            context.kernels,
            rng(study.seed, repeat, "scheme"),
            measure=variant.measure,
            most=None if m is None else choice_of(similarity, m, count),
            least=None if m is None else choice_of(similarity, m, count, least=True),
            layers=lambda: context.hidden_layers,
            hidden=lambda: context.hidden,
            channel_statistics=lambda weights: channel_statistics(
                study.cnn, weights, to_unit(images[some]), data.classes
            ),
            normalised=lambda weights: normalised(study.cnn, weights, to_unit(images[some]), data.classes),
            losses=lambda weights: evaluate(
                study.cnn, weights, to_unit(images[some]), labels[some], data.classes, **context.engine
            )[0],
            gradients=lambda weights: batch_gradients(
                study.cnn,
                weights,
                to_unit(images[order]),
                labels[order],
                data.classes,
                study.batch_size,
                draws_seed(context, repeat),
            ),
        )
        made.append(make_weights(variant.scheme, ingredients))
    return [np.stack(w) for w in zip(*made, strict=True)]


def _target(context: Context, repeat: int, noising: NoisingResult | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (clean ones uint8, others float32) and labels [N] that the variants train on.

    Of fewer than all, the first in a random order, so that 600 are among 6,000; they stand as they do among all.
    """
    images, labels = _all_of_target(context, repeat, noising)
    if context.study.target_images in (0, len(labels)):
        return images, labels
    order = rng(context.study.seed, repeat, "target images").permutation(len(labels))
    drawn = np.sort(order[: context.study.target_images])
    return images[drawn], labels[drawn]


def _all_of_target(context: Context, repeat: int, noising: NoisingResult | None) -> tuple[np.ndarray, np.ndarray]:
    data, kind = context.dataset, context.study.target
    if kind == "clean":
        return data.x_train, data.y_train
    if noising is None:  # of a study whose donors are the user's own, the data are noised for the variants alone
        noising = compute_noising(context, repeat, {}, lambda _: None)
    images = noised_subsets(context, repeat, noising)
    labels = [data.y_train[indices] for indices in noising.subsets]
    if kind == "mixed":
        images, labels = [to_unit(data.x_train), *images], [data.y_train, *labels]
    return np.concatenate(images), np.concatenate(labels)
