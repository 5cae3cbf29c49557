"""What all four steps have in common: their shape."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure

from cnnsim_tf.alignment import Hidden
from cnnsim_tf.alignment.hidden import hidden_layers
from cnnsim_tf.datasets import Dataset, to_unit
from cnnsim_tf.filters import ConvKernel, filter_names, to_filters
from cnnsim_tf.models import build, conv_kernels, weighted_layers
from cnnsim_tf.process.limits import cores
from cnnsim_tf.report.page import PageTable
from cnnsim_tf.study import StepName, Study
from cnnsim_tf.training import Progress

R = TypeVar("R")
Table = dict[str, list]
PROBE_IMAGES = 500
LAYER_IMAGES = 300  # for similarities of layers, whose cost grows with their square and cube


@dataclass(frozen=True)
class Context:
    """A study and what follows from it that every repeat needs: computed once per process."""

    study: Study
    dataset: Dataset
    threads: int = field(default_factory=cores)  # that one repeat may use; results do not depend on it

    @property
    def engine(self) -> dict[str, Any]:
        """How the CNNs train: keyword arguments of `train` and `evaluate`."""
        return {"engine": self.study.engine, "threads": self.threads}

    @cached_property
    def test_images(self) -> np.ndarray:
        """Clean test images, [T, S, S] float32 in [-1, 1]."""
        return to_unit(self.dataset.x_test)

    @property
    def published(self) -> bool:
        """Whether the published figures, of MNIST and the reference CNN, may stand beside this study's."""
        return (self.study.dataset, self.study.cnn) == ("mnist", "reference")

    @property
    def probe_images(self) -> np.ndarray:
        """Clean test images that networks are looked into with, [500 at the most, S, S] float32 in [-1, 1]."""
        return self.test_images[:PROBE_IMAGES]

    @cached_property
    def kernels(self) -> list[ConvKernel]:
        """The CNN's conv kernels."""
        return conv_kernels(build(self.study.cnn, self.dataset.side, self.dataset.classes))

    @cached_property
    def hidden(self) -> list[Hidden]:
        """The CNN's layers whose units may change places.

        Raises:
            StudyError: the CNN is not a chain of layers.
        """
        return hidden_layers(build(self.study.cnn, self.dataset.side, self.dataset.classes))

    @cached_property
    def layers(self) -> list[tuple[str, int]]:
        """Name and number of units of every Conv2D and Dense layer, the logits last."""
        model = build(self.study.cnn, self.dataset.side, self.dataset.classes)
        return [(layer.name, int(layer.kernel.shape[-1])) for layer in weighted_layers(model)]

    @property
    def donor_passes(self) -> int:
        """How many images pass in the training of one donor."""
        return len(self.dataset.x_train) // len(self.study.noises) * self.study.epochs

    @property
    def filter_names(self) -> list[str]:
        """The names of the CNN's filters in the published order."""
        return filter_names(self.kernels)


def filters_npz(context: Context, weights: Mapping[str, Sequence[Sequence[np.ndarray]]]) -> bytes:
    """Return the conv filters of one CNN in every repeat as an .npz.

    Args:
        context: of the study.
        weights: for a prefix of names, the CNN's weights per repeat, in Keras's order.

    Returns:
        The file: per prefix and conv layer an array [repeats, filters, height, width], named prefix and layer.
    """
    arrays: dict[str, np.ndarray] = {}
    for prefix, repeats in weights.items():
        layers = to_filters([np.stack(w) for w in zip(*repeats, strict=True)], context.kernels)
        arrays |= {f"{prefix}{k.layer}": layer for k, layer in zip(context.kernels, layers, strict=True)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@dataclass(frozen=True)
class Child:
    """What a child run (a donor, a variant) shows."""

    name: str
    tags: dict[str, str]
    params: dict[str, Any]
    metrics: list[tuple[str, float, int]]  # name, value, step
    figures: dict[str, Figure]
    files: dict[str, bytes]
    note: str  # markdown


@dataclass(frozen=True)
class Part:
    """A section of the report page; figures are those of the summary, each with its caption and text alternative."""

    title: str
    text: str = ""  # paragraphs separated by empty lines
    tables: Sequence[PageTable] = ()
    figures: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What a step shows of all its repeats."""

    note: str  # markdown, the result first
    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    terminal: str = ""  # what the terminal shows of it
    parts: Sequence[Part] = ()  # of the report page
    answer: str = ""  # to the study's question, in two sentences


@dataclass(frozen=True)
class Step:
    """One step of a study.

    `compute` is pure and makes one repeat's result (a dataclass of arrays) from the context, the number of the
    repeat (from 1) and a dict of the results of that repeat's earlier steps by name, which it may take things out of;
    it reports image passes as it goes.
    `passes` says how many of them a repeat takes.
    """

    name: StepName
    title: str
    result: type
    compute: Callable[[Context, int, dict[StepName, Any], Progress], Any]
    summarise: Callable[[Context, Sequence[Any], dict[StepName, Sequence[Any]]], Summary]
    passes: Callable[[Context], int]
    main_figure: str  # the one that the terminal's link opens
    needs: tuple[StepName, ...] = ()  # earlier steps whose results it takes
    child_role: str = ""
    child_names: Callable[[Study], Sequence[str]] = lambda study: ()  # of the child runs that its results have


def passing(default: Any) -> Any:
    """Declare a field of a result that is handed to the next step, but not stored; it is `default` when read back."""
    return dataclasses.field(default=default, repr=False, metadata={"stored": False})


def stored_fields(kind: type) -> list[dataclasses.Field]:
    """Return the fields of a result that are stored."""
    return [f for f in dataclasses.fields(kind) if f.metadata.get("stored", True)]


def without_passing(result: R) -> R:
    """Return a result as it is when it is read back: without what is not stored."""
    passed = {f.name: f.default for f in dataclasses.fields(result) if not f.metadata.get("stored", True)}  # type: ignore[arg-type]
    return dataclasses.replace(result, **passed) if passed else result  # type: ignore[type-var]
