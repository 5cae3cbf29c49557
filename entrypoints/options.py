"""Command-line options made from Study's parameters, and how entry points end."""

import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

from cnnsim_tf.errors import StudyError
from cnnsim_tf.study import StepName, Study, parameters_of


class _Names(click.ParamType):
    """Comma-separated names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


def _option(parameter: dataclasses.Field) -> click.Option:
    default: Any = parameter.default
    is_list = parameter.type == tuple[str, ...]
    kinds: dict[Any, Any] = {int: click.INT, float: click.FLOAT, bool: click.BOOL}
    more: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if parameter.type is bool else {}
    return click.Option(
        [f"--{parameter.name.replace('_', '-')}"],
        type=_Names() if is_list else kinds.get(parameter.type, click.STRING),
        default=",".join(default) if is_list else default,
        show_default=True,
        help=parameter.metadata["help"],
        **more,
    )


def command(step: StepName, help: str) -> Callable[[], None]:
    """Return the function that an entry point runs: options in, step called.

    It exits with 0 on success, 2 on a parameter's error, 1 on other errors, 130 on Ctrl-C; errors that the user can
    mend are one sentence on stderr.
    """
    names = parameters_of(step)
    fields = [f for f in dataclasses.fields(Study) if f.name in names]

    def call(**values: Any) -> None:
        study = Study(**values)
        from cnnsim_tf.steps import shell  # after the parameters are checked: importing TensorFlow takes seconds

        shell.run(step, study)

    def main() -> None:
        _quiet()
        try:
            click.Command(step, params=[_option(f) for f in fields], callback=call, help=help).main(
                standalone_mode=False
            )
        except click.exceptions.Abort:
            sys.exit(_say("stopped: what is stored stays, and the same command goes on from there", 130))
        except click.ClickException as error:
            sys.exit(_say(" ".join(error.format_message().split()), 2))
        except StudyError as error:
            sys.exit(_say(str(error), error.exit_code))

    return main


def _say(sentence: str, exit_code: int) -> int:
    print(f"error: {sentence}" if exit_code != 130 else sentence, file=sys.stderr)
    return exit_code


def _quiet() -> None:
    """Keep what libraries say about themselves off the terminal; errors still arrive as exceptions."""
    warnings.simplefilter("ignore")
    for name in ("alembic", "tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
