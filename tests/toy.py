"""A pipeline of plain numpy with the steps' names, for tests of what runs and stores steps: a repeat takes no time.

As a command it is an entry point of this pipeline: `python toy.py STEP OPTIONS`. Environment variables say what its
repeats do besides: TOY_CALLS names a file that gets a line per computed repeat; TOY_HOLD a step and a repeat, such as
`warmstart 2`, in which a worker waits, once it has made the file TOY_CALLS.here, for the file TOY_CALLS.go.
"""

import dataclasses
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cnnsim_tf import pipeline
from cnnsim_tf.pipeline import Pipeline, donor_names, variant_names
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import markdown, text_table
from cnnsim_tf.report.page import PageTable, Part, Shown
from cnnsim_tf.run import artists
from cnnsim_tf.seeds import rng
from cnnsim_tf.steps.arrays import Array
from cnnsim_tf.steps.kept import whole
from cnnsim_tf.steps.step import Child, Summary, passing
from entrypoints.options import command, options_of

artists.MOST = 0  # its figures are drawn in no time


@dataclass(frozen=True)
class Result:
    values: Annotated[np.ndarray, Array("4", np.float64)]
    parts: Annotated[dict[str, np.ndarray], Array("halves", np.float64, kept=False)] = field(default_factory=dict)
    passed: np.ndarray | None = passing(None)  # noqa: RUF009


@dataclass(frozen=True)
class Toy:
    """The code of a step whose values are random numbers, plus those of the steps that it needs."""

    name: str
    needs: tuple[str, ...]
    Result: type = Result

    def check(self, context):
        return []

    def sizes(self, context):
        return {"halves": {"first/half": (2,), "second/half": (2,)}}

    def passes(self, context):
        return 10

    def compute(self, context, repeat, inputs, progress):
        noted(self.name, repeat)
        study = context.study
        values = rng(study.seed, repeat, f"toy {self.name}").normal(size=4) * study.level
        for need in self.needs:
            values = values + np.concatenate(list(inputs[need].parts.values()))  # the same, and not kept
        progress(10)
        return Result(values, {"first/half": values[:2], "second/half": values[2:]}, passed=values)

    def summarise(self, context, results, inputs):
        study = context.study
        table = pd.DataFrame([r.values for r in results], columns=list("abcd"))
        figure = Drawing(drawing)
        names = [*donor_names(study), *variant_names(study)]
        metric = ("mean", float(table["a"].mean()), 0)
        child = Child(
            {}, {}, [metric], {"figure.png": figure}, {"file": whole(results, 0).parts["first/half"].tobytes}, "child"
        )
        shown = Shown(figure, "A toy", "toy")
        return Summary(
            note=f"toy {self.name}\n\n{markdown(table)}",
            parts=[Part(self.name, "", [PageTable("Values", table)], {f"{self.name}.png": shown})],
            tables={"values": table, "sums": table.sum().to_frame("sum")},
            metrics=[metric],
            children=dict.fromkeys(names, child),
            terminal=f"toy {self.name}\n{text_table(table)}",
            title="Toy",
            answer="It is a toy.",
        )


def drawing():
    """Return a figure that is drawn in no time."""
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, "toy")
    return figure


def noted(name, repeat):
    """Note that a repeat is computed, and wait where a test wants it."""
    if not (calls := os.environ.get("TOY_CALLS")):
        return
    with Path(calls).open("a") as file:
        file.write(f"{name} {repeat} {os.getpid()}\n")
    if os.environ.get("TOY_HOLD") == f"{name} {repeat}":
        Path(f"{calls}.here").touch()
        while not Path(f"{calls}.go").exists():
            time.sleep(0.02)


def sweep(sweep, values):
    """Summarise a sweep: the first value of all repeats' last step."""
    table = pd.DataFrame([{sweep.parameter: v.text, "a": v.results[0].values[0], "run": v.run_id} for v in values])
    return Summary(
        note="toy sweep",
        parts=[Part("Swept", "", [PageTable("Swept", table)], {"sweep.png": Shown(Drawing(drawing), "A toy", "toy")})],
        tables={"sweep": table},
        metrics=[("a", float(a), i) for i, a in enumerate(table["a"])],
        terminal=text_table(table),
        title="Toy sweep",
        answer="It is a sweep of toys.",
    )


CODE = {step.name: Toy(step.name, step.needs) for step in pipeline.PIPELINE}
NOISING, SUBSET_TRAINING, SIMILARITY, WARMSTART = CODE.values()
OF_SIMILARITY_ALONE = Toy("warmstart", ("similarity",))  # a last step that does not take all that was found before
PIPELINE = Pipeline(
    [
        dataclasses.replace(
            step,
            code_at=f"toy:{step.name.upper()}",
            main_figure=f"{step.name}.png",
            has_models=False,
            sweep_at="toy:sweep" if step.sweep_at else "",
        )
        for step in pipeline.PIPELINE
    ],
    software=["numpy"],
)


def words(step, **parameters):
    """Return those of the parameters that mean something to an entry point as the words of its command line."""
    names = {f.name for f in options_of(step, PIPELINE)}
    return [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items() if name in names]


def main(step):
    """Run an entry point of this pipeline with the words of the command line."""
    command(step, "A toy.", PIPELINE)()


if __name__ == "__main__":
    import toy  # so that workers, too, know its classes by this name

    step = sys.argv.pop(1)
    toy.main(step)
