"""The report of a warm start or a sweep as one HTML page: what its steps say, how it was made, what it cost."""

import dataclasses
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from cnnsim_tf import __version__, tracking
from cnnsim_tf.pipeline import Step
from cnnsim_tf.process.redaction import redacted
from cnnsim_tf.report.page import Page, PageTable, Part, render
from cnnsim_tf.run.session import Session
from cnnsim_tf.run.worker import PACKAGE
from cnnsim_tf.steps.step import Summary
from cnnsim_tf.study import LOCAL, Study

QUESTION = (
    "Small CNNs were trained on subsets of the data that were corrupted in different ways. Some of their convolutional "
    "filters came out alike. If a new CNN starts from those filters, does it learn the data better or faster than from "
    "random initialisation?"
)


WITH_OWN_DONORS = (
    "If a new CNN starts from the weights of networks that were there before, the donors, does it learn these data "
    "better or faster than from random initialisation? The donors are the same in every repeat: what follows is about "
    "these donors, and not about others like them."
)


def page_of(session: Session, step: Step) -> str:
    """Return the report of a step whose repeats the session has, with all that the steps before it found."""
    summaries: dict[str, Summary] = {}
    for each in session.pipeline:
        if each.name in session.results:  # not those of a step that only a re-used one needs
            made, results = session.summaries.get(each.name), session.results
            summaries[each.name] = made or each.code.summarise(session.context, results[each.name], results)
    own = summaries.pop(step.name)
    sections = sections_of(step.name, own)
    for name, summary in summaries.items():
        sections += sections_of(name, summary)
    sections.append(cost_section([session]))
    study = session.study
    title = f"{own.title}: {session.data_name}, level {study.level:g}, {study.repeats} repeats"
    return rendered([session], step, title, own.answer, sections, {})


def sections_of(prefix: str, summary: Summary) -> list[Part]:
    """Return the sections that a step's summary has for the page; `prefix` keeps names of different steps apart."""
    named = [{f"{prefix}-{name.removesuffix('.png')}": f for name, f in part.figures.items()} for part in summary.parts]
    return [dataclasses.replace(part, figures=figures) for part, figures in zip(summary.parts, named, strict=True)]


def rendered(
    sessions: Sequence[Session],
    step: Step,
    title: str,
    answer: str,
    sections: Sequence[Part],
    more: Mapping[str, Any],
) -> str:
    """Return a page of these sections.

    Args:
        sessions: whose studies it is about: one, or those of a sweep.
        step: that the page is about, in each of the sessions.
        title: of the page.
        answer: to the question.
        sections: the results.
        more: parameters besides the study's; of a sweep, `parameter` names the one that differs between sessions.
    """
    study, data = sessions[0].study, sessions[0].context.dataset
    versions = dict(sessions[0].software)
    source = versions.pop(PACKAGE)
    digests = {"data set": data.digest, "source code": source}
    run = tracking.get_run(sessions[0].client, sessions[0].run_ids[step.name])
    if commit := run.data.tags.get("mlflow.source.git.commit"):
        digests["git commit"] = commit
    for session in sessions:
        of = f" at {more['parameter']} {_text(getattr(session.study, more['parameter']))}" if more else ""
        digests[f"fingerprint{of}"] = session.fingerprint(step.name)
    # What a sweep goes through stands there with all its values.
    values = study.values() | {more["parameter"]: more["values"]} if more else study.values()
    shown = {name: _text(tuple(v) if isinstance(v, list) else v).replace(",", ", ") for name, v in values.items()}
    facts = {
        "data": sessions[0].data_name,
        "images": f"{len(data.x_train):,} training, {len(data.x_test):,} test",
        "repeats": shown["repeats"],
        "seed": shown["seed"],
        "noises": shown["noises"],
        "level": shown["level"],
        "CNN": shown["cnn"],
        "epochs": f"donors {shown['epochs']}, variants {shown['target_epochs']}",
        "donors": ", ".join(sessions[0].context.donors),
        "target data": shown["target"],
        "target images": "all" if shown["target_images"] == "0" else shown["target_images"],
        "filters compared by": shown["measures"],
        "align": shown["align"],
        "variants": str(len(study.variants)),
    }
    facts.pop(*["epochs"] if study.own_donors else ["donors"])
    if more:
        facts = {"sweep of": f"{more['parameter']}: {shown[more['parameter']]}"} | facts
        facts.pop(more["parameter"], None)  # of variants, which differ from value to value
    return render(
        Page(
            title=title,
            question=WITH_OWN_DONORS if study.own_donors else QUESTION,
            answer=answer,
            facts=facts,
            sections=sections,
            settings=_settings(sessions[0], step, more),
            reused=[sentence for session in sessions for sentence in session.reused],
            reproduce=_commands(study, "sweep" if more else step.name, more),
            versions={"cnnsim_tf": __version__, "Python": platform.python_version(), **versions},
            digests=digests,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def _settings(session: Session, step: Step, more: Mapping[str, Any]) -> PageTable:
    rows = []
    for field in session.pipeline.parameters_of(step.name):
        value = more["values"] if field.name == more.get("parameter") else _text(getattr(session.study, field.name))
        rows.append(
            {
                "parameter": field.name,
                "value": value,
                "default": _text(field.default),
                "meaning": field.metadata["help"],
            }
        )
    return PageTable("All parameters", pd.DataFrame(rows))


def _commands(study: Study, entry_point: str, more: Mapping[str, Any]) -> list[str]:
    """Return the command that makes the same study: parameters that differ from their defaults are given."""
    changed = {f.name: getattr(study, f.name) for f in dataclasses.fields(Study) if getattr(study, f.name) != f.default}
    left_out = ["fresh", "scheduler", "device", more.get("parameter"), *["cnn"] * study.own_donors]
    given = {name: value for name, value in changed.items() if name not in left_out} | dict(more)
    words = " ".join(f"-P {shlex.quote(f'{name}={_text(value)}')}" for name, value in given.items())
    return [f"mlflow run . -e {entry_point} --env-manager local {words}".strip()]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return redacted(",".join(value))
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)  # the command must give the very number
    return str(value).lower() if isinstance(value, bool) else redacted(str(value))


def cost_section(sessions: Sequence[Session]) -> Part:
    """Return what the computing of the repeats cost in this run."""
    title = "Energy and CO2"
    if sessions[0].study.scheduler != LOCAL:
        return Part(title, "Not measured: the repeats were computed by the workers of a Dask cluster.")
    totals = [session.cost for session in sessions if session.cost]
    if not totals:
        return Part(title, "Not measured: this run computed no repeat.")
    rows = []
    for step in (*sessions[0].pipeline, None):
        of = totals if step is None else [s.costs[step.name] for s in sessions if step.name in s.costs]
        if of:
            rows.append(
                {
                    "step": step.title if step else "all",
                    "seconds": round(sum(c.seconds for c in of), 1),
                    "energy, Wh": 1000 * sum(c.energy_kwh for c in of),
                    "CO2, g": 1000 * sum(c.co2_kg for c in of),
                }
            )
    note = (
        f"Of the repeats that this run computed; tables, figures and models come on top. {totals[0].how}. Electricity: "
        f"{sessions[0].study.country}. Repeats that run side by side share the time."
    )
    return Part(title, "", [PageTable("Energy and CO2 of computing the repeats", pd.DataFrame(rows), note)])
