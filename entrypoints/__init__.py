"""Command-line entry points, one per step of a study."""

import sys

if sys.version_info < (3, 6):  # noqa: UP036 for which the next import is no Python
    sys.exit("error: this is Python " + sys.version.split()[0] + ", and the study needs 3.11: make an environment "
             "(`make .venv`), activate it (`source .venv/bin/activate`) and run the same command again")  # fmt: skip

from entrypoints.environment import check

check()
