"""The report of a warm start or a sweep as one HTML page: what its steps say, how it was made, what it cost."""

import dataclasses
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cnnsim_tf import __version__, tracking
from cnnsim_tf.figures import to_svg
from cnnsim_tf.page import Page, PageTable, Picture, Section, render
from cnnsim_tf.steps.recipe import software
from cnnsim_tf.steps.repeat import STEPS_IN_ORDER
from cnnsim_tf.steps.session import Session
from cnnsim_tf.steps.step import Step, Summary
from cnnsim_tf.study import LOCAL, StepName, Study

PAGE_FILE = "report.html"
QUESTION = (
    "Small CNNs were trained on subsets of the data that were corrupted in different ways. Some of their convolutional "
    "filters came out alike. If a new CNN starts from those filters, does it learn the data better or faster than from "
    "random initialisation?"
)


def page_of(session: Session, step: Step) -> str:
    """Return the report of a step whose repeats the session has, with all that the steps before it found."""
    summaries: dict[StepName, Summary] = {}
    for name, each in STEPS_IN_ORDER.items():
        if name in session.results:
            made = session.summaries.get(name)
            summaries[name] = made or each.summarise(session.context, session.results[name], session.results)
    sections = sections_of(step.name, summaries.pop(step.name))
    for name, summary in summaries.items():
        sections += sections_of(name, summary)
    sections.append(_cost_section(session))
    study = session.study
    title = f"Warm start from similar filters: {study.dataset}, level {study.level:g}, {study.repeats} repeats"
    return rendered([session], title, session.summaries[step.name].answer, sections, step.name, {})


def sections_of(prefix: str, summary: Summary) -> list[Section]:
    """Return the sections that a step's summary has for the page; `prefix` keeps names of different steps apart."""
    return [
        Section(
            part.title,
            part.text,
            part.tables,
            [
                Picture(
                    to_svg(
                        summary.figures[name],
                        f"{prefix}-{name.removesuffix('.png')}",
                        caption.split(":")[0],
                        alternative,
                    ),
                    caption,
                )
                for name, (caption, alternative) in part.figures.items()
            ],
        )
        for part in summary.parts
    ]


def rendered(
    sessions: Sequence[Session],
    title: str,
    answer: str,
    sections: Sequence[Section],
    entry_point: str,
    more: Mapping[str, Any],
) -> str:
    """Return a page of these sections.

    Args:
        sessions: whose studies it is about: one, or those of a sweep.
        title: of the page.
        answer: to the question.
        sections: the results.
        entry_point: of `mlflow run`.
        more: parameters besides the study's; of a sweep, `parameter` names the one that differs between sessions.
    """
    study, data = sessions[0].study, sessions[0].context.dataset
    versions = dict(software())
    source = versions.pop("cnnsim_tf")
    digests = {"data set": data.digest, "source code": source}
    run = tracking.get_run(sessions[0].client, sessions[0].run_ids["warmstart"])
    if commit := run.data.tags.get("mlflow.source.git.commit"):
        digests["git commit"] = commit
    for session in sessions:
        of = f" at {more['parameter']} {_text(getattr(session.study, more['parameter']))}" if more else ""
        digests[f"fingerprint{of}"] = session.fingerprint("warmstart")
    facts = {
        "data": f"{data.name}, {len(data.x_train):,} training and {len(data.x_test):,} test images",
        "noises": f"{', '.join(study.noises)}; level {study.level:g}",
        "repeats": f"{study.repeats}, paired; seed {study.seed}",
        "CNN": f"{study.cnn}; donors train {study.epochs} epochs, variants {study.target_epochs} ({study.target} data)",
        "filters": f"compared by {', '.join(study.measures)}; align {study.align}",
        "variants": ", ".join(study.variants),
    }
    if more:
        facts = {"swept": f"{more['parameter']}: {more['values']}; below, what belongs to its first value"} | facts
    return render(
        Page(
            title,
            QUESTION,
            answer,
            facts,
            sections,
            _settings(study),
            [sentence for session in sessions for sentence in session.reused],
            _commands(study, entry_point, more),
            {"cnnsim_tf": __version__, "Python": platform.python_version(), **versions},
            digests,
            datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def _settings(study: Study) -> PageTable:
    columns: dict[str, list] = {"parameter": [], "value": [], "default": [], "meaning": []}
    for field in dataclasses.fields(Study):
        row = field.name, _text(getattr(study, field.name)), _text(field.default), field.metadata["help"]
        for column, value in zip(columns, row, strict=True):
            columns[column].append(value)
    return PageTable("All parameters", columns)


def _commands(study: Study, entry_point: str, more: Mapping[str, Any]) -> list[str]:
    """Return the command that makes the same study: parameters that differ from their defaults are given."""
    changed = {f.name: getattr(study, f.name) for f in dataclasses.fields(Study) if getattr(study, f.name) != f.default}
    left_out = ("fresh", "scheduler", "device", more.get("parameter"))
    given = {name: value for name, value in changed.items() if name not in left_out} | dict(more)
    words = " ".join(f"-P {shlex.quote(f'{name}={_text(value)}')}" for name, value in given.items())
    return [f"mlflow run . -e {entry_point} --env-manager local {words}".strip()]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)  # the command must give the very number
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cost_section(session: Session) -> Section:
    """Return what the computing of the repeats cost in this run."""
    if session.study.scheduler != LOCAL:
        return Section("Energy and CO2", "Not measured: the repeats were computed by the workers of a Dask cluster.")
    if session.cost is None:
        return Section("Energy and CO2", "Not measured: this run computed no repeat.")
    steps = {STEPS_IN_ORDER[name].title: cost for name, cost in session.costs.items()}
    total = session.cost
    columns: dict[str, list] = {
        "step": [*steps, "all"],
        "seconds": [round(c.seconds, 1) for c in (*steps.values(), total)],
        "energy Wh": [1000 * c.energy_kwh for c in (*steps.values(), total)],
        "CO2 g": [1000 * c.co2_kg for c in (*steps.values(), total)],
    }
    note = (
        f"Of the repeats that this run computed; tables, figures and models come on top. Power: {total.how}. CO2 of "
        f"electricity from: {session.study.country}. Repeats that run side by side share the time."
    )
    return Section("Energy and CO2", "", [PageTable("Energy and CO2 of computing the repeats", columns, note)])
