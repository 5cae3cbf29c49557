"""Command-line options made from Study's parameters, and how entry points end."""

import contextlib
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

from cnnsim_tf import process
from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.pipeline import PIPELINE, Pipeline
from cnnsim_tf.process import terminal
from cnnsim_tf.process.users_code import leaving, staying, turn_signals_into_exceptions
from cnnsim_tf.registry import unknown_name
from cnnsim_tf.study import Study, Sweep
from entrypoints import environment


class _Names(click.ParamType):
    """Comma-separated names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


class _Number(click.ParamType):
    """A number; what is none goes on as text, so that Study says what is wrong with it and what is allowed."""

    def __init__(self, kind: type) -> None:
        self.name = "integer" if kind is int else "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str):
            for kind in (int, float):
                with contextlib.suppress(ValueError):
                    return kind(value)
        return value


class _Truth(click.ParamType):
    """true or false; anything else goes on as text, so that Study says what is allowed."""

    name = "true|false"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return {"true": True, "false": False}.get(str(value).lower(), value)


def _option(parameter: dataclasses.Field) -> click.Option:
    default: Any = parameter.default
    is_list = parameter.type == tuple[str, ...]
    kinds: dict[Any, Any] = {int: _Number(int), float: _Number(float), bool: _Truth()}
    more: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if parameter.type is bool else {}
    return click.Option(
        [f"--{parameter.name.replace('_', '-')}"],
        type=_Names() if is_list else kinds.get(parameter.type, click.STRING),
        default=",".join(default) if is_list else str(default).lower() if parameter.type is bool else default,
        show_default=True,
        help=parameter.metadata["help"],
        **more,
    )


def options_of(entry_point: str, pipeline: Pipeline = PIPELINE) -> list[dataclasses.Field]:
    """Return the parameters that are an entry point's options: the study's that mean something to it, a sweep's own."""
    if entry_point == "sweep":
        return [*pipeline.parameters_of(pipeline.last.name), *dataclasses.fields(Sweep)]
    return pipeline.parameters_of(entry_point)


def command(entry_point: str, help: str, pipeline: Pipeline = PIPELINE) -> Callable[[], None]:
    """Return the function that an entry point runs: options in, step of the pipeline called.

    It exits with 0 on success, 2 on a parameter's error, 1 on other errors, 130 on Ctrl-C; errors that the user can
    mend are one sentence on stderr.
    """
    fields = options_of(entry_point, pipeline)

    @staying()
    def call(**values: Any) -> None:
        own = {f.name: values.pop(f.name) for f in dataclasses.fields(Sweep)} if entry_point == "sweep" else {}
        study = Study(**values)
        step = pipeline.last.name if own else entry_point
        swept = Sweep(**own) if own else None
        for each in swept.studies(study) if swept else [study]:  # raises where values are at odds with each other
            pipeline.checked(step, each)
        process.import_matplotlib()
        process.import_dask()
        # After the parameters are checked: importing MLflow and TensorFlow takes seconds.
        first = "cnnsim_tf.run.runner" not in sys.modules
        with process.importing() if first else contextlib.nullcontext():
            from cnnsim_tf.run import runner, sweep

            if "tensorflow" in pipeline.software:
                import cnnsim_tf.run.device  # noqa: F401
        if swept:
            sweep.run(study, swept, pipeline)
        else:
            runner.run(step, study, pipeline)
        if not any(":" in str(value) for value in (values | own).values()):  # as names of the user's functions have it
            process.leave_all()

    def main() -> None:
        guarded(click.Command(entry_point, params=[_option(f) for f in fields], callback=call, help=help), entry_point)

    return main


@leaving()
def guarded(command: click.Command, entry_point: str | None = None) -> None:
    """Run a command; what goes wrong becomes a sentence and an exit code."""
    turn_signals_into_exceptions()
    terminal.steady()
    _quiet()
    try:
        command.main(standalone_mode=False)
    except click.exceptions.Abort:
        print("stopped: what is stored stays, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except click.ClickException as error:
        if entry_point and isinstance(error, click.NoSuchOption):
            sys.exit(_fail(_unknown_option(error.option_name, entry_point)))
        sys.exit(_fail(ParameterError(" ".join(error.format_message().split()).rstrip("."))))
    except StudyError as error:
        sys.exit(_fail(error))
    except ImportError as error:
        if sentence := environment.incomplete(error):
            sys.exit(_fail(StudyError(sentence)))
        raise


def _unknown_option(option: str, entry_point: str) -> ParameterError:
    name = option.lstrip("-").replace("-", "_")
    names = [f.name for f in options_of(entry_point)]
    known = [f"--{n.replace('_', '-')}" for n in names]
    if name in {f.name for kind in (Study, Sweep) for f in dataclasses.fields(kind)} - set(names):
        return ParameterError(f"{option} means nothing to {entry_point}: its options are {', '.join(known)}")
    return unknown_name("option", option, known, "--help")


def _fail(error: StudyError) -> int:
    """Print an error, mark the run that `mlflow run` made, if it did, and return the exit code."""
    print(f"error: {error}", file=sys.stderr)
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        from cnnsim_tf import tracking

        with contextlib.suppress(StudyError):
            tracking.mark_failed(tracking.connect(), run_id, error)
    return error.exit_code


def _quiet() -> None:
    """Keep what libraries say about themselves off the terminal; errors still arrive as exceptions."""
    warnings.simplefilter("ignore")
    for name in ("alembic", "tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
