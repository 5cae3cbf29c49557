"""Entry points in processes forked from one that has imported everything (dies_at.py): no test is in here."""

import json
import os
import signal
import subprocess
import sys
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Forks:
    """Starts entry points of the toy or the real pipeline; the first start takes the seconds that imports take."""

    def __init__(self, pipeline, environment):
        self._command = [sys.executable, ROOT / "tests" / "dies_at.py", pipeline]
        self._environment = environment | {"TF_CPP_MIN_LOG_LEVEL": "3"}

    @cached_property
    def _server(self):
        return subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, question):
        print(json.dumps(question), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())

    def start(self, words, folder, uri, moment="", said="study", **variables):
        """Start an entry point in a folder; what it says is in files there. It dies at the moment, if one is given."""
        variables |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "study"}
        given = {"moment": moment, "folder": str(folder), "environment": variables, "words": words, "said": said}
        return Forked(self, self.ask(given), Path(folder) / said)

    def close(self):
        if "_server" in vars(self):
            self._server.stdin.close()
            self._server.wait()


class Forked:
    """A started entry point."""

    def __init__(self, forks, pid, files):
        self._forks, self.pid, self._files = forks, pid, files

    @cached_property
    def code(self):
        """The exit code, once it has ended, which is waited for."""
        return self._forks.ask(self.pid)

    def ended(self):
        """Tell whether it has ended."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def kill(self, by=signal.SIGKILL):
        if "code" not in vars(self):
            os.kill(self.pid, by)

    def said(self, where="err"):
        return self._files.with_suffix(f".{where}").read_text()
