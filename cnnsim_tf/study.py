"""The study: every parameter with its type, default, allowed values and help, and the fingerprint of each step."""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import numbers
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.process.redaction import redacted

StepName = Literal["noising", "subset_training", "similarity", "warmstart"]
BASELINE = "random_init"  # the variant that all others are compared with
LOCAL = "local"  # the scheduler that is this process itself


def _parameter(default: Any, help: str, **limits: Any) -> Any:
    """Declare one parameter: `low`/`high` bound it (`above`: exclusive), `choices` lists what is allowed."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Study:
    """All parameters of a study, validated once.

    Lists are tuples of names; on the command line and in MLproject they are comma-separated.

    Raises:
        ParameterError: a value is out of range, of the wrong type, or at odds with another one.
    """

    dataset: str = _parameter(
        "mnist", "mnist, fashion_mnist, a path to an .npz in Keras's layout or to a directory of IDX files"
    )
    noises: tuple[str, ...] = _parameter(
        ("perspective", "blur", "gaussian", "erasing", "elastic", "rotation"),
        "the corruption of each subset, comma-separated; as many donors as noises",
        least=2,
    )
    level: float = _parameter(
        1.0, "strength of the noises: 1 = as published, 0 = none (the setting of the published figures)", low=0, high=10
    )
    seed: int = _parameter(0, "every random number of the study follows from it", low=0, high=2**32 - 1)
    repeats: int = _parameter(
        20, "independent replicates of everything; the published study has 20", low=1, high=100_000
    )
    cnn: str = _parameter("reference", "the network: reference, or your own as package.module:function")
    epochs: int = _parameter(6, "passes of every donor over its subset", low=1, high=100_000)
    target_epochs: int = _parameter(1, "passes of every variant over the target data", low=1, high=100_000)
    batch_size: int = _parameter(64, "images per training step", low=1, high=1_000_000)
    learning_rate: float = _parameter(0.001, "of Adam", above=0, high=10)
    measures: tuple[str, ...] = _parameter(
        ("cosine", "pearson", "frobenius"), "similarity measures between filters, comma-separated, or all", least=1
    )
    layer_measures: tuple[str, ...] = _parameter(
        ("linear_cka", "debiased_cka", "procrustes", "soft_matching"),
        "similarity measures between layers of two donors, comma-separated",
        least=1,
    )
    align: str = _parameter(
        "none",
        "what is matched before donors are compared: none, filters (each with any of the other donor's), network "
        "(whole donors, by permutation)",
        choices=("none", "filters", "network"),
    )
    variants: tuple[str, ...] = _parameter(
        ("random_init", "cosine", "pearson", "frobenius", "random_donor"),
        "initial weights to compare, comma-separated: a measure, a scheme, measure+scheme, or a group: published, "
        "controls, candidates, all",
        least=1,
    )
    target: str = _parameter(
        "clean",
        "what the variants train on: the clean training set, the noisy subsets, or both (mixed)",
        choices=("clean", "noisy", "mixed"),
    )
    registered_model: str = _parameter("cnnsim_warmstart", "the registered model whose versions are the variants")
    device: str = _parameter(
        "auto", "where the CNNs train: auto takes a GPU where there is one", choices=("auto", "cpu", "gpu")
    )
    engine: str = _parameter(
        "auto",
        "what trains the CNNs: fleet (many in one program), keras (Keras's own layers), auto: fleet where it can",
        choices=("auto", "fleet", "keras"),
    )
    scheduler: str = _parameter(
        "local", "where repeats are computed: local, or the Dask scheduler at an address such as tcp://host:8786"
    )
    country: str = _parameter(
        "world", "where the electricity is from, for the CO2 of each step: a code such as NLD or DEU, or world"
    )
    fresh: bool = _parameter(False, "true: compute everything anew instead of re-using finished runs")

    def __post_init__(self) -> None:
        for parameter in dataclasses.fields(self):
            object.__setattr__(self, parameter.name, _checked(parameter, getattr(self, parameter.name)))
        if not re.fullmatch(r"\w[\w .-]{0,199}", self.registered_model):
            raise ParameterError(
                f"registered_model is {self.registered_model!r}: a registered model's name is up to 200 letters, "
                "digits, spaces, and . _ - and begins with a letter or digit"
            )
        if self.scheduler != LOCAL and not re.fullmatch(r"((tcp|tls|wss?|ucxx?)://)?[^\s/@]+:\d+", self.scheduler):
            raise ParameterError(
                f"scheduler is {redacted(self.scheduler)!r}: it must be local or the address that the Dask scheduler "
                "prints when it starts, such as tcp://host:8786 or tls://host:8786 (its dashboard's, http://…, is none)"
            )

    def values(self) -> dict[str, Any]:
        """Return all parameters by name, tuples as lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True)
class Sweep:
    """One parameter of a study and the values that it takes one after the other.

    Raises:
        ParameterError: it cannot be swept, a value is not allowed, or there are fewer than two.
    """

    parameter: str = _parameter("level", "the parameter that is swept")
    values: str = _parameter(
        "0,0.5,1,1.5,2", "its values, separated by commas; by semicolons where a value is itself a list of names"
    )

    def __post_init__(self) -> None:
        allowed = [f.name for f in dataclasses.fields(Study) if f.name in _result_parameters("warmstart")]
        if self.parameter not in allowed:
            close = difflib.get_close_matches(self.parameter, allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ParameterError(f"parameter is {self.parameter!r}: {hint}a sweep can be over {', '.join(allowed)}")
        studies = self.studies(Study())  # refuses a value that is not allowed
        if len(set(studies)) < max(2, len(studies)):  # by value: 1 and 1.0 are the same
            lists = (
                f"; {self.parameter} takes lists of names, which are separated by semicolons" if self._listed else ""
            )
            raise ParameterError(
                f"values is {self.values!r}: a sweep needs at least two values, each of them once{lists}"
            )

    @property
    def texts(self) -> list[str]:
        """The values as the user wrote them."""
        return [v.strip() for v in self.values.split(";" if self._listed or ";" in self.values else ",")]

    @property
    def listed(self) -> str:
        """The values in a sentence; semicolons stand between those that have commas in them."""
        return ("; " if any("," in text for text in self.texts) else ", ").join(self.texts)

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self._field.type in (int, float)

    def studies(self, study: Study) -> list[Study]:
        """Return the study with one value after the other."""
        return [dataclasses.replace(study, **{self.parameter: self._value(text)}) for text in self.texts]

    @property
    def _field(self) -> dataclasses.Field:
        return Study.__dataclass_fields__[self.parameter]

    @property
    def _listed(self) -> bool:
        return self._field.type == tuple[str, ...]

    def _value(self, text: str) -> Any:
        """Return a value in the parameter's type; what cannot be one stays text, which Study refuses."""
        if self._listed:
            return tuple(text.split(","))
        if self.numeric:
            for kind in (int, float):
                with contextlib.suppress(ValueError):
                    return kind(text)
        return text


@dataclass(frozen=True)
class StepSpec:
    """What a step's results depend on."""

    name: StepName
    version: int  # raised when the step's code gives other results for the same parameters
    parameters: tuple[str, ...]  # of the step itself; those of its upstream steps come through their fingerprints
    upstream: StepName | None


STEPS: dict[StepName, StepSpec] = {
    spec.name: spec
    for spec in (
        StepSpec("noising", 2, ("dataset", "noises", "level", "seed", "repeats"), None),
        StepSpec("subset_training", 1, ("cnn", "epochs", "batch_size", "learning_rate"), "noising"),
        StepSpec("similarity", 2, ("measures", "layer_measures", "align"), "subset_training"),
        StepSpec("warmstart", 2, ("variants", "target", "target_epochs"), "similarity"),
    )
}
# What decides how a step runs and where its results go, but not what they are. Device and engine are among it: others
# round differently, which is chance, not method, so that repeats of a GPU box can be gone on with on a laptop.
SETTINGS: dict[StepName, tuple[str, ...]] = {
    "noising": ("scheduler", "country", "fresh"),
    "subset_training": ("device", "engine", "scheduler", "country", "fresh"),
    "similarity": ("device", "engine", "scheduler", "country", "fresh"),
    "warmstart": ("registered_model", "device", "engine", "scheduler", "country", "fresh"),
}


def parameters_of(step: StepName) -> list[str]:
    """Return the names of all parameters that mean something to a step, its upstream's included, in Study's order."""
    names = {*SETTINGS[step], *_result_parameters(step)}
    return [f.name for f in dataclasses.fields(Study) if f.name in names]


def fingerprint(study: Study, step: StepName, digests: dict[str, str], *, of_repeats: bool = False) -> str:
    """Return what identifies a step's results: equal fingerprints, equal results.

    Args:
        study: the parameters; only those that the step's results depend on count.
        step: the step.
        digests: of what parameters only name: the dataset's content (key `dataset`, in place of its name or path)
            and the source code of a user's own functions.
        of_repeats: leave the number of repeats out, since one repeat's results do not depend on how many there are.

    Returns:
        A sha256 in hexadecimal digits.
    """
    spec = STEPS[step]
    values = study.values()
    names = [n for n in spec.parameters if n != "dataset" and not (of_repeats and n == "repeats")]
    content = {
        "step": spec.name,
        "version": spec.version,
        "parameters": {n: values[n] for n in names},
        "digests": {key: digests[key] for key in sorted(digests) if key.split(" ")[0] in spec.parameters},
        "upstream": fingerprint(study, spec.upstream, digests, of_repeats=of_repeats) if spec.upstream else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _result_parameters(step: StepName) -> set[str]:
    spec = STEPS[step]
    return {*spec.parameters, *(_result_parameters(spec.upstream) if spec.upstream else ())}


def _checked(parameter: dataclasses.Field, value: Any) -> Any:
    """Return `value` in the parameter's type and within its limits."""
    limits, name = parameter.metadata, parameter.name
    if parameter.type == tuple[str, ...]:
        return _checked_names(name, value, limits["least"])
    if parameter.type in (int, float):
        value = _checked_number(name, parameter.type, value, limits)
    elif not isinstance(value, parameter.type):  # type: ignore[arg-type]
        raise ParameterError(f"{name} is {value!r}: it must be {'true or false' if parameter.type is bool else 'text'}")
    if isinstance(value, str) and not value.strip():
        raise ParameterError(f"{name} is empty: it needs a value, for example {parameter.default!r}")
    if "choices" in limits and value not in limits["choices"]:
        raise ParameterError(f"{name} is {value!r}: it must be one of {', '.join(limits['choices'])}")
    return value


def _checked_number(name: str, kind: type, value: Any, limits: Any) -> Any:
    low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
    allowed = f"above {above} and at most {high}" if above is not None else f"{low} to {high}"
    noun = "a whole number" if kind is int else "a number"
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fits = fits and -math.inf < value <= high and (kind is float or value == int(value))
    if not fits or (value <= above if above is not None else value < low):
        raise ParameterError(f"{name} is {value!r}: it must be {noun}, {allowed}")
    return kind(value)


def _checked_names(name: str, value: Any, least: int) -> tuple[str, ...]:
    if not isinstance(value, (tuple, list)) or not all(isinstance(v, str) for v in value):
        raise ParameterError(f"{name} is {value!r}: it must be a list of names")
    names = tuple(v.strip() for v in value)
    if not all(names) or len(names) < least:
        raise ParameterError(
            f"{name} is {','.join(names)!r}: it needs at least {least} name{'s' * (least > 1)}, separated by commas"
        )
    for repeated in {n for n in names if names.count(n) > 1}:
        raise ParameterError(f"{name} names {repeated!r} twice: each may stand there once")
    return names
