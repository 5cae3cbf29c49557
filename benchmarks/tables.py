"""The measurements as tables in Markdown, as they stand in the documentation."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.rounds import spread

REFERENCE = "fleet engine"  # what its peers are compared with
# In the order of a repeat.
PHASES = (
    *("noising", "noising of test sets", "donors", "evaluation", "similarity", "variants", "looks inside", "logging"),
)
Results = Mapping[str, Any]


def tables(results: Results) -> str:
    """Return everything that was measured as Markdown: a list of the machine, then a table per section."""
    parts = [_machine(results)]
    measured = results["results"]
    by_section = {
        section: {name: c for name, c in measured.items() if c["section"] == section}
        for section in ("training", "noising", "repeat")
    }
    if by_section["training"]:
        parts += [_training(by_section["training"]), _evaluation(by_section["training"])]
    if by_section["noising"]:
        parts.append(_noising(by_section["noising"]))
    for contestant in by_section["repeat"].values():
        parts.append(_repeat(contestant))
    parts.append("\n".join(f"- {name}: not measured, {why}" for name, why in results["not_measured"].items()))
    return "\n\n".join(part for part in parts if part)


def _machine(results: Results) -> str:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {v}" for name, v in results["packages"].items() if v)
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, "
        f"load {machine['load_at_start']} at the start; Python {results['python']}, {versions}; "
        f"commit {(results['commit'] or 'unknown')[:12]}{' with changes' if results['uncommitted_changes'] else ''}, "
        f"{results['time']}.\n\n"
        f"Medians of {settings['rounds']} rounds in turn (smallest to largest in brackets); a turn of training or "
        f"noising took at least {settings['seconds']:g} s. {settings['images']:,} images a CNN, batches of 64. "
        "Where no number of cores is given, it is one, and per core is per core in use."
    )


def _training(measured: Results) -> str:
    table: dict[str, list] = {
        key: []
        for key in ("training", "CNNs", "images/s per core", f"{REFERENCE} is × as fast", "compile s", "peak MiB")
    }
    for name, contestant in measured.items():
        train = contestant["tasks"]["train"]
        compared = name != REFERENCE and REFERENCE in measured
        faster = _ratios(measured[REFERENCE]["tasks"]["train"], train) if compared else None
        row = (
            name,
            contestant["models"],
            _thousands(train["images_per_second_per_core"]),
            _brackets(faster, ".1f") if faster else "",
            f"{train['compile_s']:.1f}",
            f"{contestant['peak_mib']:,.0f}",
        )
        _add(table, row)
    return "\n\n".join([_markdown(table), *_scaling(measured)])


def _scaling(measured: Results) -> Iterator[str]:
    """Yield how much faster all cores are than one, where both were measured."""
    for name, contestant in measured.items():
        if name.startswith(f"{REFERENCE}, ") and contestant["cores"] > 1 and REFERENCE in measured:
            all_cores, one = (c["tasks"]["train"]["turns"] for c in (contestant, measured[REFERENCE]))
            units = [c["tasks"]["train"]["units_per_turn"] for c in (contestant, measured[REFERENCE])]
            faster = [(b["wall_s"] / units[1]) / (a["wall_s"] / units[0]) for a, b in zip(all_cores, one, strict=True)]
            yield f"{contestant['cores']} cores are {_brackets(spread(faster), '.2f')} times as fast as one."


def _evaluation(measured: Results) -> str:
    table: dict[str, list] = {key: [] for key in ("evaluation", "CNNs", "images/s per core", "compile s")}
    for name, contestant in measured.items():
        if evaluate := contestant["tasks"].get("evaluate"):
            rate = _thousands(evaluate["images_per_second_per_core"])
            _add(table, (name, contestant["models"], rate, f"{evaluate['compile_s']:.1f}"))
    return _markdown(table) if table["CNNs"] else ""


def _noising(measured: Results) -> str:
    tasks = next(iter(measured.values()))["tasks"]
    table: dict[str, list] = {"noise": list(tasks)}
    for name, contestant in measured.items():
        table[f"{name}, images/s"] = [_thousands(contestant["tasks"][t]["images_per_second"]) for t in tasks]
    if {"cnnsim_tf", "torchvision v2"} <= set(measured):
        ours, theirs = (measured[name]["tasks"] for name in ("cnnsim_tf", "torchvision v2"))
        table["one core is × as fast"] = [_brackets(_ratios(ours[t], theirs[t]), ".1f") for t in tasks]
    return _markdown(table)


def _repeat(contestant: Results) -> str:
    repeat, summary = contestant["tasks"]["repeat"], contestant["tasks"]["summary"]
    phases = [p for p in PHASES if p in repeat["first_value"]]
    total = [sum(t["value"].values()) for t in repeat["turns"]]
    table: dict[str, list] = {"one repeat": [], "seconds": [], "share %": []}
    for phase in phases:
        seconds = [t["value"][phase] for t in repeat["turns"]]
        share = 100 * statistics.median(seconds) / statistics.median(total)
        _add(table, (phase, _brackets(spread(seconds), ".2f"), f"{share:.0f}"))
    _add(table, ("all of it", _brackets(repeat["seconds_per_unit"], ".2f"), "100"))
    once: dict[str, list] = {"once": [], "seconds": []}
    for name, seconds in (
        ("import", contestant["import_s"]),
        ("data, store, first TensorFlow call", contestant["prepare_s"]),
        ("compile, in the first repeat", repeat["compile_s"]),
        ("tables, figures, models", summary["turns"][0]["wall_s"]),
    ):
        _add(once, (name, f"{seconds:.1f}"))
    peaks = (
        f"{repeat['turns'][-1]['peak_mib']:,.0f} MiB after the repeats, {contestant['peak_mib']:,.0f} MiB in the end"
    )
    return f"{_markdown(table)}\n\n{_markdown(once)}\n\nPeak memory of the study: {peaks}."


def _ratios(one: Results, other: Results) -> dict[str, float]:
    """Return how many times the images per second and core of `other` those of `one` are, paired by round."""
    rates = []
    for task in (one, other):
        cores = task["images_per_second"]["median"] / task["images_per_second_per_core"]["median"]
        images = task["images_per_unit"] * task["units_per_turn"]
        rates.append([images / t["wall_s"] / cores for t in task["turns"]])
    return spread([a / b for a, b in zip(*rates, strict=True)])


def _brackets(values: Mapping[str, float], how: str) -> str:
    return f"{values['median']:{how}} ({values['min']:{how}} to {values['max']:{how}})"


def _thousands(values: Mapping[str, float]) -> str:
    return _brackets(values, ",.0f")


def _add(table: Mapping[str, list], row: Sequence[Any]) -> None:
    for column, value in zip(table.values(), row, strict=True):
        column.append(value)


def _markdown(table: Mapping[str, list]) -> str:
    return tabulate(table, headers="keys", tablefmt="github", disable_numparse=True)
