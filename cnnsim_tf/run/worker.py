"""One repeat, wherever it is computed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnsim_tf.errors import StudyError
from cnnsim_tf.run.recipe import Recipe, context_of
from cnnsim_tf.steps import noising, subset_training
from cnnsim_tf.steps.similarity import compute as similarity
from cnnsim_tf.steps.step import Step, without_passing
from cnnsim_tf.steps.warmstart import summary as warmstart
from cnnsim_tf.study import StepName
from cnnsim_tf.training import Progress

STEPS_IN_ORDER: dict[StepName, Step] = {
    module.STEP.name: module.STEP for module in (noising, subset_training, similarity, warmstart)
}


@dataclass(frozen=True)
class Repeat:
    """What became of a repeat: the results of its steps, and the mistake of the user's that ended it, if one did."""

    results: dict[StepName, Any]
    error: StudyError | None = None
    seconds: dict[StepName, float] = field(default_factory=dict)  # that each step took


def compute(
    recipe: Recipe, repeat: int, steps: Sequence[StepName], stored: Mapping[StepName, Any], progress: Progress
) -> Repeat:
    """Compute steps of one repeat, each from the results of those before it.

    Args:
        recipe: of the study.
        repeat: its number, from 1.
        steps: to compute, in the order in which data flows.
        stored: results of the other steps that these need.
        progress: told of every image pass.

    Returns:
        The results as they are stored.
    """
    made: dict[StepName, Any] = {}
    seconds: dict[StepName, float] = {}
    try:
        context = context_of(recipe)
        for name in steps:
            inputs = {**stored, **made}
            # What a step only passes on, the next one takes out of its inputs and lets go of when it is done with it.
            made = _as_stored(made)
            started = time.perf_counter()
            made[name] = STEPS_IN_ORDER[name].compute(context, repeat, inputs, progress)
            seconds[name] = time.perf_counter() - started
            del inputs
    except StudyError as error:
        return Repeat(_as_stored(made), error)
    return Repeat(_as_stored(made), seconds=seconds)


def _as_stored(results: dict[StepName, Any]) -> dict[StepName, Any]:
    return {name: without_passing(result) for name, result in results.items()}
