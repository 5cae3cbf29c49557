"""The steps of a study as data, what each depends on, and the fingerprints that tell equal results."""

import dataclasses
import hashlib
import json
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.study import Study


def no_children(study: Study) -> list[str]:
    """Return the names of the child runs of a step that has none."""
    return []


def donor_names(study: Study) -> list[str]:
    """Return the names of the donors' runs."""
    return [f"donor {d} {label}" for d, label in enumerate(donor_labels(study), 1)]


def donor_labels(study: Study) -> tuple[str, ...]:
    """Return what donors are called: by the noise that they are trained on, or in short by where they come from."""
    return short_names(study.donors) if study.own_donors else study.noises


def short_names(sources: Sequence[str]) -> tuple[str, ...]:
    """Return the ends of sources that tell them apart: weeks/may.keras as may, models:/digits/2 as digits/2."""
    parts = [re.sub(r"^(models|runs):/+|\.(keras|h5|hdf5)$", "", source).strip("/").split("/") for source in sources]
    kept = [2 if source.startswith(("models:", "runs:")) else 1 for source in sources]
    short = ["/".join(part[-k:]) for part, k in zip(parts, kept, strict=True)]
    return tuple(short) if len(set(short)) == len(short) else tuple(sources)


def variant_names(study: Study) -> list[str]:
    """Return the names of the variants' runs."""
    return list(study.variants)


@dataclass(frozen=True)
class Step:
    """One step of a study.

    Attributes:
        name: of its entry point.
        title: as people read it.
        version: raised when the step's code gives other results for the same parameters.
        code_at: the module (or the `module:object`) that has its code (see steps/step.py).
        main_figure: the one that the terminal's link opens.
        needs: earlier steps whose results it takes.
        also: parameters that mean something to it besides those that name it as their first step.
        child_role: what its child runs are, "" without any.
        child_names: from the study to their names.
        has_report: whether a report page is made of it and of the steps before it.
        has_models: whether its children's models are registered; its code then has `models`, too.
        sweep_at: the function (`module:function`) that summarises a sweep of it, "" where it is not swept.
    """

    name: str
    title: str
    version: int
    code_at: str
    main_figure: str
    needs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    child_role: str = ""
    child_names: Callable[[Study], list[str]] = no_children
    has_report: bool = False
    has_models: bool = False
    sweep_at: str = ""

    @property
    def code(self) -> Any:
        """What has its code, imported when it is first asked for."""
        # With its colon, for what cannot be imported in a module is else taken for an attribute that its package lacks.
        return pkgutil.resolve_name(self.code_at if ":" in self.code_at else f"{self.code_at}:")


def registry_of(parameter: str) -> Any:
    """Return the registry that knows a parameter's names."""
    return pkgutil.resolve_name(Study.__dataclass_fields__[parameter].metadata["registry"])


def _entries(study: Study, parameter: dataclasses.Field) -> Sequence[str]:
    """Return what a study's parameter names of its registry; nothing of one that has none."""
    if "registry" not in parameter.metadata:
        return ()
    if function := parameter.metadata.get("entries"):
        return pkgutil.resolve_name(function)(study)
    value = getattr(study, parameter.name)
    return [value] if isinstance(value, str) else value


class Pipeline:
    """Steps in the order in which data flows."""

    def __init__(self, steps: Sequence[Step], software: Sequence[str], own_donors: Sequence[Step] = ()) -> None:
        """Make a pipeline.

        Args:
            steps: each after those that it needs.
            software: modules whose versions show in results.
            own_donors: the steps of a study whose donors are models of the user's own; none: the same.
        """
        self._steps, self.software = {step.name: step for step in steps}, tuple(software)
        self._own_donors = Pipeline(own_donors, software) if own_donors else self

    def of(self, study: Study) -> "Pipeline":
        """Return the pipeline of a study."""
        return self._own_donors if study.own_donors else self

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def __getitem__(self, name: str) -> Step:
        return self._steps[name]

    @property
    def last(self) -> Step:
        """The step that all others are made for."""
        return list(self)[-1]

    def up_to(self, name: str) -> list[Step]:
        """Return a step after all that it needs, directly or not."""
        needed = {name}
        for step in reversed(list(self)):
            needed |= set(step.needs) if step.name in needed else set()
        return [step for step in self if step.name in needed]

    def parameters_of(self, name: str) -> list[dataclasses.Field]:
        """Return all parameters that mean something to a step, those of the steps that it needs included."""
        steps = {step.name: step for step in self.up_to(name)}
        also = {parameter for step in steps.values() for parameter in step.also}
        return [f for f in dataclasses.fields(Study) if f.metadata["step"] in steps or f.name in also]

    def checked(self, name: str, study: Study) -> Study:
        """Return the study with groups of names written out, after looking all names of a step up.

        A user's own modules are not imported here, and neither is TensorFlow.

        Raises:
            ParameterError: a name is unknown.
        """
        parameters = self.parameters_of(name)
        if study.pixels != "auto" and not study.own_donors:
            raise ParameterError(
                f"pixels is {study.pixels!r}, the range that donors of your own were trained on: name them as donors"
            )
        with_variants = "variants" in (parameter.name for parameter in parameters)
        study = pkgutil.resolve_name("cnnsim_tf.schemes:expanded")(study, with_variants=with_variants)
        for parameter in parameters:
            if check := parameter.metadata.get("check"):
                pkgutil.resolve_name(check)(getattr(study, parameter.name))
            if (
                "registry" in parameter.metadata and "entries" not in parameter.metadata
            ):  # else `expanded` has checked it
                for entry in _entries(study, parameter):
                    registry_of(parameter.name).check(entry)
        return study

    def source_digests(self, name: str, study: Study) -> dict[str, str]:
        """Return digests of the user's own functions that a step's parameters name, by parameter and name.

        Their modules are imported.

        Raises:
            ParameterError: a name is unknown.
        """
        digests = {}
        for parameter in self.parameters_of(name):
            for entry in _entries(study, parameter):
                registry = registry_of(parameter.name)
                registry.get(entry)
                if source := registry.source_digest(entry):
                    digests[f"{parameter.name} {entry}"] = source
        return digests

    def fingerprint(self, study: Study, name: str, digests: dict[str, str], *, of_repeats: bool = False) -> str:
        """Return what identifies a step's results: equal fingerprints, equal results.

        Args:
            study: the parameters; only those that the step's results depend on count.
            name: of the step.
            digests: of what parameters only name: the dataset's content (key `dataset`, in place of its name or path),
                donors of the user's own (key `donors`) and the source code of a user's own functions (keys such as
                `noises package.module:function`).
            of_repeats: leave the number of repeats out, since one repeat's results do not depend on how many there are.

        Returns:
            A sha256 in hexadecimal digits.
        """
        step, values = self[name], study.values()
        own = {
            f.name
            for f in dataclasses.fields(Study)
            if (f.metadata["step"] == name or f.name in step.also) and not f.metadata["setting"]
        }
        named = {"dataset", "pixels"} | ({"repeats"} if of_repeats else set())
        if of_repeats or not study.own_donors:  # what donors are called shows, but in no repeat
            named.add("donors")
        content = {
            "step": step.name,
            "version": step.version,
            "parameters": {n: values[n] for n in sorted(own - named)},
            "digests": {key: value for key, value in digests.items() if key.split(" ")[0] in own},
            "upstream": [self.fingerprint(study, n, digests, of_repeats=of_repeats) for n in step.needs],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_SIMILARITY = Step(
    "similarity",
    "similarity",
    version=6,
    code_at="cnnsim_tf.steps.similarity",
    main_figure="extreme_pairs.png",
    needs=("subset_training",),
)
_WARMSTART = Step(
    "warmstart",
    "warm start",
    version=5,
    code_at="cnnsim_tf.steps.warmstart",
    main_figure="accuracy_by_variant.png",
    needs=("noising", "subset_training", "similarity"),
    child_role="variant",
    child_names=variant_names,
    has_report=True,
    has_models=True,
    sweep_at="cnnsim_tf.steps.sweep:summarise",
)
PIPELINE = Pipeline(
    (
        Step(
            "noising",
            "noising",
            version=4,
            code_at="cnnsim_tf.steps.noising",
            main_figure="noise_examples.png",
        ),
        Step(
            "subset_training",
            "subset training",
            version=3,
            code_at="cnnsim_tf.steps.subset_training",
            main_figure="donor_accuracy.png",
            needs=("noising",),
            child_role="donor",
            child_names=donor_names,
        ),
        _SIMILARITY,
        _WARMSTART,
    ),
    software=("tensorflow", "keras", "numpy", "scipy"),
    own_donors=(
        Step(
            "donors",
            "donors",
            version=1,
            code_at="cnnsim_tf.steps.donors",
            main_figure="donor_accuracy.png",
            also=(
                *("dataset", "noises", "level", "seed", "repeats", "cnn", "donors", "pixels"),
                *("device", "engine", "scheduler", "country", "fresh"),
            ),
            child_role="donor",
            child_names=donor_names,
        ),
        dataclasses.replace(_SIMILARITY, needs=("donors",)),
        dataclasses.replace(_WARMSTART, needs=("donors", "similarity"), also=("batch_size", "learning_rate")),
    ),
)
