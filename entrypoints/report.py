"""Open the report of the newest warm start or sweep in the browser."""

import click

from entrypoints.options import guarded


@click.command(help="Open the report of the newest finished warm start or sweep, or of the run RUN_ID, in the browser.")
@click.argument("run_id", default="")
def _report(run_id: str) -> None:
    from cnnsim_tf.report import open as open_report

    open_report.run(run_id)


def main() -> None:
    """Run the command; it exits as the other entry points do."""
    guarded(_report)


if __name__ == "__main__":
    main()
