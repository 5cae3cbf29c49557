"""The study: every parameter with its type, default, allowed values, help and step; and what a sweep goes through."""

import contextlib
import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.parameters import checked
from cnnsim_tf.process.redaction import redacted

BASELINE = "random_init"  # the variant that all others are compared with
LOCAL = "local"  # the scheduler that is this process itself
TRAINED = ("trained",)  # donors that the study trains itself


def _result(step: str, default: Any, help: str, **more: Any) -> Any:
    """Declare a parameter that changes results.

    Args:
        step: the first step that it means something to; to all that need this one, it does too.
        default: its value if none is given.
        help: what it is, for the command line and the report.
        more: `low`/`high` bound it (`above`: exclusive), `choices` lists what is allowed, `least` names it needs.
            `registry` (`module:name`) knows its names, and those that a user may give as `package.module:function`;
            `entries` names a function from the study to them where they are not the values themselves. `check` names a
            function that raises ParameterError for a value. All these are looked up without importing TensorFlow.
    """
    return field(default=default, metadata={"step": step, "help": help, "setting": False, **more})


def _setting(step: str, default: Any, help: str, **more: Any) -> Any:
    """Declare a parameter that decides how a study runs and where its results go, but not what they are.

    Device and engine are such: others round differently, which is chance, not method, so that repeats of a GPU box can
    be gone on with on a laptop. Arguments are those of `_result`.
    """
    return field(default=default, metadata={"step": step, "help": help, "setting": True, **more})


@dataclass(frozen=True)
class Study:
    """All parameters of a study, validated once.

    Lists are tuples of names; on the command line and in MLproject they are comma-separated.

    Raises:
        ParameterError: a value is out of range, of the wrong type, or at odds with another one.
    """

    dataset: str = _result(
        "noising",
        "mnist",
        "mnist, fashion_mnist, cifar10, cifar100, a path to an .npz of Keras's or MedMNIST's naming or to a directory "
        "of IDX files",
        check="cnnsim_tf.datasets:check_name",
    )
    noises: tuple[str, ...] = _result(
        "noising",
        ("perspective", "blur", "gaussian", "erasing", "elastic", "rotation"),
        "the corruption of each subset, comma-separated; as many donors as noises",
        least=2,
        registry="cnnsim_tf.noise:NOISES",
    )
    level: float = _result(
        "noising",
        1.0,
        "strength of the noises: 1 = as published, 0 = none (the setting of the published figures)",
        low=0,
        high=10,
    )
    seed: int = _result("noising", 0, "every random number of the study follows from it", low=0, high=2**32 - 1)
    repeats: int = _result(
        "noising", 20, "independent replicates of everything; the published study has 20", low=1, high=100_000
    )
    cnn: str = _result(
        "subset_training",
        "reference",
        "the network: reference, or your own as package.module:function",
        registry="cnnsim_tf.cnn:CNNS",
    )
    epochs: int = _result("subset_training", 6, "passes of every donor over its subset", low=1, high=100_000)
    target_epochs: int = _result("warmstart", 1, "passes of every variant over the target data", low=1, high=100_000)
    batch_size: int = _result("subset_training", 64, "images per training step", low=1, high=1_000_000)
    learning_rate: float = _result("subset_training", 0.001, "of Adam", above=0, high=10)
    donors: tuple[str, ...] = _result(
        "similarity",
        TRAINED,
        "trained: on noised subsets; or your own Keras models of one architecture, comma-separated: .keras and .h5 "
        "files, folders of them, models:/name, models:/name/version, models:/name@alias, runs:/id/path",
        least=1,
    )
    pixels: str = _result(
        "similarity",
        "auto",
        "the range of the images that donors of your own were trained on; auto: 0..255 if they begin with Rescaling or "
        "Normalization, else -1..1",
        choices=("auto", "-1..1", "0..1", "0..255"),
    )
    measures: tuple[str, ...] = _result(
        "similarity",
        ("cosine", "pearson", "frobenius"),
        "similarity measures between filters, comma-separated, or all",
        least=1,
        registry="cnnsim_tf.measures:MEASURES",
    )
    layer_measures: tuple[str, ...] = _result(
        "similarity",
        ("linear_cka", "debiased_cka", "procrustes", "soft_matching"),
        "similarity measures between layers of two donors, comma-separated",
        least=1,
        registry="cnnsim_tf.layer_measures:LAYER_MEASURES",
    )
    align: str = _result(
        "similarity",
        "none",
        "what is matched before donors are compared: none, filters (each with any of the other donor's), network "
        "(whole donors, by permutation)",
        choices=("none", "filters", "network"),
    )
    variants: tuple[str, ...] = _result(
        "warmstart",
        ("random_init", "cosine", "pearson", "frobenius", "random_donor", "pearson+centred_medoid_donor"),
        "initial weights to compare, comma-separated: a measure, a scheme, measure+scheme, or a group: published, "
        "controls, candidates, each_donor, all",
        least=1,
        registry="cnnsim_tf.schemes:SCHEMES",
        entries="cnnsim_tf.schemes:schemes_of",
    )
    target: str = _result(
        "warmstart",
        "clean",
        "what the variants train on: the clean training set, the noisy subsets, or both (mixed)",
        choices=("clean", "noisy", "mixed"),
    )
    target_images: int = _result(
        "warmstart",
        0,
        "how many images of the target data the variants see, drawn anew in each repeat; 0: all",
        low=0,
        high=100_000_000,
    )
    registered_model: str = _setting(
        "warmstart", "cnnsim_warmstart", "the registered model whose versions are the variants"
    )
    device: str = _setting(
        "subset_training",
        "auto",
        "where the CNNs train: auto takes a GPU where there is one",
        choices=("auto", "cpu", "gpu"),
    )
    engine: str = _setting(
        "subset_training",
        "auto",
        "what trains the CNNs: fleet (many in one program), keras (Keras's own layers), auto: fleet where it can",
        choices=("auto", "fleet", "keras"),
    )
    scheduler: str = _setting(
        "noising",
        "local",
        "where repeats are computed: local, or the Dask scheduler at an address such as tcp://host:8786",
    )
    country: str = _setting(
        "noising",
        "world",
        "where the electricity is from, for the CO2 of each step: a code such as NLD or DEU, or world",
        check="cnnsim_tf.run.cost:check_country",
    )
    fresh: bool = _setting("noising", False, "true: compute everything anew instead of re-using finished runs")

    def __post_init__(self) -> None:
        for parameter in dataclasses.fields(self):
            object.__setattr__(self, parameter.name, checked(parameter, getattr(self, parameter.name)))
        if not re.fullmatch(r"\w[\w .-]{0,199}", self.registered_model):
            raise ParameterError(
                f"registered_model is {self.registered_model!r}: a registered model's name is up to 200 letters, "
                "digits, spaces, and . _ - and begins with a letter or digit"
            )
        if self.own_donors and TRAINED[0] in self.donors:
            raise ParameterError(f"donors are {','.join(self.donors)!r}: they are either trained or your own models")
        if self.scheduler != LOCAL and not re.fullmatch(r"((tcp|tls|wss?|ucxx?)://)?[^\s/@]+:\d+", self.scheduler):
            raise ParameterError(
                f"scheduler is {redacted(self.scheduler)!r}: it must be local or the address that the Dask scheduler "
                "prints when it starts, such as tcp://host:8786 or tls://host:8786 (its dashboard's, http://…, is none)"
            )

    @property
    def own_donors(self) -> bool:
        """Whether the donors are models of the user's own, not trained in the study."""
        return self.donors != TRAINED

    def values(self) -> dict[str, Any]:
        """Return all parameters by name, tuples as lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True)
class Sweep:
    """One parameter of a study and the values that it takes one after the other.

    Raises:
        ParameterError: it cannot be swept, a value is not allowed, or there are fewer than two.
    """

    parameter: str = _result("sweep", "level", "the parameter that is swept")
    values: str = _result(
        "sweep",
        "0,0.5,1,1.5,2",
        "its values, separated by commas; by semicolons where a value is itself a list of names",
    )

    def __post_init__(self) -> None:
        allowed = [f.name for f in dataclasses.fields(Study) if not f.metadata["setting"]]
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
