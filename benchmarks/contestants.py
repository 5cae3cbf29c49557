"""Who is measured: this project and its peers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import version

DONORS = 6


@dataclass(frozen=True)
class Contestant:
    """A process that is measured; `arguments` are those of the factory (module:function) that returns its tasks."""

    name: str
    section: str  # contestants of one section are measured in turns
    factory: str
    arguments: Mapping[str, Any]
    models: int = 1
    cores: int = 1
    package: str = "tensorflow"  # that it needs
    environment: Mapping[str, str] = field(default_factory=dict)


def contestants(images: int, noised: int, repeats: int, dataset: str, cores: int) -> list[Contestant]:
    """Return all contestants.

    Args:
        images: that each CNN trains on.
        noised: images that each of this project's noises gets; torchvision's get a tenth.
        repeats: of the study, warm-up included.
        dataset: of the study.
        cores: of this machine.
    """
    n = {"n": images}
    jit, more_steps = {"jit_compile": True}, {"steps_per_execution": 50}
    old_runtime = {"XLA_FLAGS": "--xla_cpu_use_thunk_runtime=false"}
    fit, jax, loop = "benchmarks.keras_fit:fit", "benchmarks.jax_vmap:program", "benchmarks.pytorch_loop:loop"
    fleet, noises = "benchmarks.engines:fleet", "benchmarks.noises:noises"
    several = [cores] if cores > 1 else []

    def trains(name: str, factory: str, options: Mapping[str, Any], **more: Any) -> Contestant:
        return Contestant(name, "training", factory, {**n, **options}, **more)

    return [
        trains("fleet engine, 1 CNN", fleet, {"models": 1, "threads": 1}),
        trains("fleet engine", fleet, {"models": DONORS, "threads": 1}, models=DONORS),
        *(
            trains(f"fleet engine, {k} cores", fleet, {"models": DONORS, "threads": k}, models=DONORS, cores=k)
            for k in several
        ),
        trains("Keras engine", "benchmarks.engines:keras_layers", {"models": DONORS}, models=DONORS),
        trains("Keras fit", fit, {}),
        trains("Keras fit, steps_per_execution", fit, more_steps),
        trains("Keras fit, jit_compile", fit, jit),
        trains("Keras fit, both", fit, more_steps | jit),
        trains("PyTorch loop", loop, {}, package="torch"),
        trains("JAX scan, 1 CNN", jax, {"models": 1}, package="jax", environment=old_runtime),
        trains("JAX vmap and scan", jax, {"models": DONORS}, models=DONORS, package="jax", environment=old_runtime),
        Contestant("cnnsim_tf", "noising", noises, {"n": noised, "cores": 1}),
        *(Contestant(f"cnnsim_tf, {k} cores", "noising", noises, {"n": noised, "cores": k}, cores=k) for k in several),
        Contestant(
            "torchvision v2",
            "noising",
            "benchmarks.torchvision_v2:transforms",
            {"n": -(-noised // 10)},
            package="torchvision",
        ),
        Contestant("study", "repeat", "benchmarks.repeat:repeats", {"count": repeats, "dataset": dataset}, cores=cores),
    ]


def installed(chosen: Sequence[Contestant]) -> tuple[list[Contestant], dict[str, str]]:
    """Return the contestants that can be measured here, and of each other one why it cannot."""
    missing = {c.name: f"{c.package} is not installed" for c in chosen if version(c.package) is None}
    return [c for c in chosen if c.name not in missing], missing
