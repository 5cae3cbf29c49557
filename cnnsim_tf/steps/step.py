"""What all steps have in common: what they are given, what they return, and what of it is stored.

The code of a step, a module or another object, has these names, which whoever runs it calls:
    Result: a dataclass of what one repeat gives: arrays, and dicts of arrays by name, each declared (see arrays.py).
    sizes(context) -> dict: what the names in these declarations stand for in a study.
    compute(context, repeat, inputs, progress) -> Result: pure; makes the result of one repeat, a number from 1, of a
        dict with the results of that repeat's earlier steps by name, which it may take things out of; tells `progress`
        of image passes.
    passes(context) -> int: how many image passes a repeat takes.
    check(context) -> list of sentences to say: what can be found wrong before anything is computed, as StudyError.
    prepare(context), of steps that have it: do, in a thread beside others, what the first repeat would else wait for.
    summarise(context, results, inputs) -> Summary: of all repeats; `inputs` has all results of earlier steps by name.
        Of each, there is what is declared to be kept; `whole` (kept.py) gives one with all else.
    models(context, results) -> iterator of TrainedModel: of a step whose children's models are registered.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from cnnsim_tf.datasets import Dataset, to_unit
from cnnsim_tf.filters import (
    MOST_LISTED,
    MOST_SHOWN,
    ConvKernel,
    Groups,
    filter_names,
    first_filters,
    groups_of,
    to_filters,
)
from cnnsim_tf.pipeline import donor_labels
from cnnsim_tf.process.limits import cores
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.page import Part
from cnnsim_tf.study import Study

if TYPE_CHECKING:
    import keras

    from cnnsim_tf.alignment import Hidden
    from cnnsim_tf.schemes import Layer
    from cnnsim_tf.stored_models import Networks

R = TypeVar("R")
Metric = tuple[str, float, int]  # name, value, step
PROBE_IMAGES = 500
MOST_CHARTED = 2_000  # repeats that have metrics of their own, which take a store longer than all else
LAYER_IMAGES = 300  # for similarities of layers, whose cost grows with their square and cube


@dataclass(frozen=True)
class Context:
    """A study and what follows from it that every repeat needs: computed once per process."""

    study: Study
    dataset: Dataset
    threads: int = field(default_factory=cores)  # that one repeat may use; results do not depend on it
    own: "Networks | None" = None  # donors of the user's own

    @property
    def engine(self) -> dict[str, Any]:
        """How the CNNs train: keyword arguments of `train` and `evaluate`."""
        return {"engine": self.study.engine, "threads": self.threads}

    @property
    def cnn(self) -> tuple[str, int, int, int]:
        """The CNN's name, the side of its images, the number of its outputs and that of its images' channels."""
        return self.study.cnn, self.dataset.side, self.dataset.classes, self.dataset.channels

    @cached_property
    def test_images(self) -> np.ndarray:
        """Clean test images, [T, S, S] or [T, S, S, 3] float32 in [-1, 1]."""
        return to_unit(self.dataset.x_test)

    @property
    def published(self) -> bool:
        """Whether the published figures, of MNIST and the reference CNN, may stand beside this study's."""
        return (self.study.dataset, self.study.cnn) == ("mnist", "reference")

    def as_published(self, table: int) -> str:
        """Return the end of a caption that says which of the published report's tables it is, where it may be one."""
        return f" (the published report's table {table})" if self.published else ""

    @property
    def probe_images(self) -> np.ndarray:
        """Clean test images that networks are looked into with, 500 at the most."""
        return self.test_images[:PROBE_IMAGES]

    @cached_property
    def model(self) -> "keras.Model":
        """A model of the CNN, to be looked at and not to be trained."""
        from cnnsim_tf.models import build  # which imports TensorFlow; not every pipeline needs it

        return build(*self.cnn)

    @cached_property
    def weight_names(self) -> list[str]:
        """A name for each of the CNN's weights, such as conv1/kernel, in Keras's order; all different."""
        names: list[str] = []
        for weight in self.model.weights:
            name, again = weight.name.removesuffix(":0"), count(2)
            names.append(name)
            while names[-1] in names[:-1]:  # layers of a model within the model may be called like its own
                names[-1] = f"{name}_{next(again)}"
        return names

    def named(self, weights: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return weights in Keras's order by their names."""
        return dict(zip(self.weight_names, weights, strict=True))

    @cached_property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the CNN's weights by their names."""
        return {name: tuple(w.shape) for name, w in self.named(self.model.weights).items()}

    @cached_property
    def kernels(self) -> list[ConvKernel]:
        """The CNN's conv kernels."""
        from cnnsim_tf.models import conv_kernels

        return conv_kernels(self.model)

    @cached_property
    def kernel_names(self) -> list[str]:
        """The names of the CNN's conv kernels."""
        return [self.weight_names[kernel.position] for kernel in self.kernels]

    def filters(self, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the filters of every layer, [..., filters, height, width], of weights by name."""
        at = {kernel.position: weights[n] for kernel, n in zip(self.kernels, self.kernel_names, strict=True)}
        return to_filters(at, self.kernels)

    @cached_property
    def hidden(self) -> "list[Hidden]":
        """The CNN's layers whose units may change places.

        Raises:
            StudyError: the CNN is not a chain of layers.
        """
        from cnnsim_tf.alignment.hidden import hidden_layers

        return hidden_layers(self.model)

    @cached_property
    def hidden_layers(self) -> "list[Layer]":
        """Where the weights of the CNN's convolutional and dense layers are, but for those of the logits.

        Raises:
            StudyError: these layers are not the whole network up to one that gives the logits, each used once.
        """
        from cnnsim_tf.network_graphs import check_hidden_layers, normalisations, unit_kernel, weighted_layers
        from cnnsim_tf.schemes import Layer

        check_hidden_layers(self.model)
        at = {id(w): i for i, w in enumerate(self.model.weights)}
        found = []
        for layer, then in zip(weighted_layers(self.model)[:-1], normalisations(self.model)[:-1], strict=True):
            added = layer.bias if then is None else then.beta
            gamma = None if then is None or then.gamma is None else at[id(then.gamma)]
            bias = None if added is None else at[id(added)]
            kernel, units = unit_kernel(layer)
            found.append(Layer(at[id(kernel)], bias, units, then is not None, gamma))
        return found

    @cached_property
    def layers(self) -> list[tuple[str, int]]:
        """Name and number of units of every convolutional and dense layer, the logits last."""
        from cnnsim_tf.network_graphs import unit_kernel, weighted_layers

        return [(layer.name, unit_kernel(layer)[1]) for layer in weighted_layers(self.model)]

    @property
    def donors(self) -> tuple[str, ...]:
        """The donors' names: the noises of the subsets that they are trained on, or where they come from, in short."""
        return donor_labels(self.study)

    @property
    def donor_passes(self) -> int:
        """How many images pass in the training of one donor; of the user's own none that are known."""
        return 0 if self.own else len(self.dataset.x_train) // len(self.study.noises) * self.study.epochs

    @property
    def filter_names(self) -> list[str]:
        """The names of the CNN's filters in the published order."""
        return filter_names(self.kernels)

    @cached_property
    def shown_groups(self) -> Groups:
        """What figures and pages tell apart: every filter, or of more than 80 those of every layer."""
        return groups_of(self.kernels, MOST_SHOWN)

    @cached_property
    def listed_groups(self) -> Groups:
        """What tables tell apart: every filter, or of more than 2,000 those of every layer."""
        return groups_of(self.kernels, MOST_LISTED)

    def pictured(self, weights: Sequence[Mapping[str, np.ndarray]], title: str) -> tuple[list, list[str], str]:
        """Return what a picture of some networks' filters, of their weights by name, shows: filters, names, title."""
        which, names = first_filters(self.kernels), self.filter_names
        filters = [[f for layer in self.filters(w) for f in layer] for w in weights]
        if len(which) < len(names):
            title += "\n(the first ones of every layer; filters.npz has all)"
        return [[row[f] for f in which] for row in filters], [names[f] for f in which], title


@dataclass(frozen=True)
class Child:
    """What a child run (a donor, a variant) shows; its name is the pipeline's."""

    tags: dict[str, str]
    params: dict[str, Any]
    metrics: list[Metric]
    figures: dict[str, Drawing]
    files: dict[str, Callable[[], bytes]]  # made when they are stored
    note: str  # markdown
    colour: str = ""  # of its curves in the UI, #rrggbb


@dataclass(frozen=True)
class Summary:
    """What a step shows of all its repeats."""

    note: str  # markdown, the result first
    parts: Sequence[Part]  # of the report page, with all figures, by file name
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    children: Mapping[str, Child] = field(default_factory=dict)  # by name
    terminal: str = ""  # what the terminal shows of it
    title: str = ""  # of the report page
    answer: str = ""  # to the study's question, in sentences or in lines of questions

    @property
    def figures(self) -> dict[str, Drawing]:
        """All figures by file name."""
        return {name: shown.figure for part in self.parts for name, shown in part.figures.items()}

    def begin(self, pool: Executor | None) -> None:
        """Have all figures drawn by others, if there are any."""
        for figure in self.figures.values():
            figure.begin(pool, "png", "svg")
        for child in self.children.values():
            for figure in child.figures.values():
                figure.begin(pool, "png")


@dataclass(frozen=True)
class TrainedModel:
    """A child's model that stands for all of its repeats, as it is registered."""

    name: str  # of the child
    model: "keras.Model"  # from pixel values to logits
    images: np.ndarray  # [n, S, S, 1 or 3] float32 of 0 to 255, on which a stored model must give the same
    tags: dict[str, str]
    description: str  # markdown


@dataclass(frozen=True)
class Swept:
    """What a sweep has of a step at one value of the swept parameter."""

    text: str  # the value as the user wrote it
    context: Context
    results: Sequence[Any]  # of all repeats
    run_id: str


def by_repeat(name: str, values: Iterable[float]) -> list[Metric]:
    """Return a metric of every repeat that is charted: its values, of all repeats, by repeat."""
    return [(name, float(value), r) for r, value in enumerate(islice(values, MOST_CHARTED), 1)]


def metrics_by_repeat(repeats: int) -> str:
    """Return what a note says of these metrics."""
    some = f" (the first {MOST_CHARTED:,} are there)" if repeats > MOST_CHARTED else ""
    return f"Metrics whose names have per_repeat in them have the repeat as their step{some}"


def passing(default: Any) -> Any:
    """Declare a field of a result that is handed to the next step, but not stored; it is `default` when read back."""
    return field(default=default, repr=False, metadata={"stored": False})


def stored_fields(kind: type) -> list[dataclasses.Field]:
    """Return the fields of a result that are stored."""
    return [f for f in dataclasses.fields(kind) if f.metadata.get("stored", True)]


def without_passing(result: R) -> R:
    """Return a result as it is when it is read back: without what is not stored."""
    passed = {f.name: f.default for f in dataclasses.fields(result) if not f.metadata.get("stored", True)}  # type: ignore[arg-type]
    return dataclasses.replace(result, **passed) if passed else result  # type: ignore[type-var]
