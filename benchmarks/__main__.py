"""The command: `python -m benchmarks`. It imports nothing large: every process of a contestant imports it too."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.against import against as compared
from benchmarks.contestants import Contestant, contestants, installed
from benchmarks.machine import description
from benchmarks.rounds import measure
from benchmarks.tables import tables
from cnnsim_tf.process.limits import cores

SECTIONS = ("training", "noising", "repeat")
ALIKE = 0.25  # by how much losses after the first epoch may differ from their median: Keras's fit shuffles by itself


@click.command(help="Measure the speed of this project and of its peers, in turn, and print tables of it.")
@click.option("--rounds", default=5, type=click.IntRange(1), show_default=True, help="turns of every contestant")
@click.option("--seconds", default=2.0, type=click.FloatRange(0), show_default=True, help="that a turn takes at least")
@click.option(
    "--images", default=10_000, type=click.IntRange(1, 10_000), show_default=True, help="that a CNN trains on"
)
@click.option("--section", "sections", multiple=True, type=click.Choice(SECTIONS), help="measure only this; repeatable")
@click.option("--only", multiple=True, metavar="TEXT", help="only contestants whose name has TEXT in it; repeatable")
@click.option("--dataset", default="mnist", show_default=True, help="that the repeats of the study are of")
@click.option("--output", default="benchmark.json", type=click.Path(dir_okay=False, path_type=Path), show_default=True)
@click.option("--quick", is_flag=True, help="one short round with few images: does it work?")
@click.option("--against", metavar="COMMIT", help="whole studies and noises of a commit and of now, in turn")
@click.option("--repeats", default=20, type=click.IntRange(3), show_default=True, help="of the study with --against")
@click.option("--show", type=click.Path(exists=True, path_type=Path), help="only print the tables of this JSON file")
def main(
    rounds: int,
    seconds: float,
    images: int,
    sections: tuple[str, ...],
    only: tuple[str, ...],
    dataset: str,
    output: Path,
    quick: bool,
    against: str | None,
    repeats: int,
    show: Path | None,
) -> None:
    """Measure, write JSON, print tables."""
    if show:
        click.echo(tables(json.loads(show.read_text())))
        return
    if quick:
        rounds, seconds, images, dataset = 1, 0.0, min(images, 200), "benchmarks.inputs:few_images"
    if against:
        click.echo(compared(against, rounds, sections or SECTIONS, repeats, dataset, images, _say))
        return
    # Of repeats, the first compiles, the second is warm.
    everyone = contestants(images, images, rounds + 2, dataset, cores())
    chosen = [c for c in everyone if c.section in (sections or SECTIONS) and _named(c, only)]
    if not chosen:
        raise click.UsageError(f"no contestant has such a name: there are {', '.join(c.name for c in everyone)}")
    able, not_measured = installed(chosen)
    settings = {"rounds": rounds, "seconds": seconds, "images": images, "dataset": dataset, "quick": quick}
    written: dict[str, Any] = {**description(), "settings": settings, "not_measured": not_measured, "results": {}}
    for section in SECTIONS:
        if taking_part := [c for c in able if c.section == section]:
            # A repeat is a turn, however short it is.
            written["results"] |= measure(taking_part, rounds, seconds if section != "repeat" else 0.0, _say)
    check_losses(written["results"])
    output.write_text(json.dumps(written, indent=1) + "\n")
    click.echo(tables(written))


def check_losses(results: dict[str, Any]) -> None:
    """Check that all contestants train the same CNN on the same data: their losses after an epoch are alike.

    Raises:
        RuntimeError: they are not.
    """
    training = {name: c["tasks"]["train"] for name, c in results.items() if c["section"] == "training"}
    losses = {name: task["first_value"][0] for name, task in training.items()}
    middle = statistics.median(losses.values()) if losses else 0.0
    if any(not abs(loss - middle) <= ALIKE * middle for loss in losses.values()):
        raise RuntimeError(f"the losses after an epoch should be alike, but they are {losses}")


def _named(contestant: Contestant, only: tuple[str, ...]) -> bool:
    return not only or any(text.lower() in contestant.name.lower() for text in only)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
