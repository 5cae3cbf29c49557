"""Servers that tests start and take away: PostgreSQL, and MLflow's."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from waiting import wait_until


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class PostgreSQL:
    """Debian's PostgreSQL with a cluster of its own, which root runs as another user, since it refuses root."""

    def __init__(self, folder):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
        on_path = shutil.which("initdb")
        programs = found[-1].parent if found else on_path and Path(on_path).resolve().parent
        if not programs:
            pytest.skip("needs PostgreSQL: apt install postgresql")
        self.programs, self.folder, self.port, self.user = programs, folder, free_port(), {}
        if os.getuid() == 0:
            known = {u.pw_name: u for u in pwd.getpwall()}
            if not (user := known.get("postgres") or known.get("nobody")):
                pytest.skip("needs a user besides root: PostgreSQL does not run as root")
            self.user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)
        self.run("initdb", "-D", f"{folder}/data", "-U", "study", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def run(self, program, *options):
        subprocess.run(
            [self.programs / program, *options],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            check=True,
            stdout=subprocess.DEVNULL,
            **self.user,
        )

    def control(self, *options):
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w", *options)

    def start(self):
        self.control("-o", f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F", "start")

    def stop(self):
        self.control("-m", "immediate", "stop")

    def database(self, name):
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "study", "-T", "template0", name)
        return f"postgresql+psycopg2://study@127.0.0.1:{self.port}/{name}"


class Server:
    """An MLflow server that stores runs in a database and artifacts in a folder, and hands both out by HTTP."""

    def __init__(self, database, folder, environment):
        self.database, self.folder, self.environment, self.port = database, folder, environment, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None
        folder.mkdir()

    def start(self):
        where = ["--backend-store-uri", self.database, "--artifacts-destination", str(self.folder)]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["mlflow", "server", *where, "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"],
                cwd=self.folder,
                env=self.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self):
        def answers():
            assert self.process.poll() is None, "the server ended"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True

        wait_until(answers, 120, "the server did not come up")

    def kill(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def running_server(*arguments):
    """Start a Server of these arguments, wait until it answers, and take it away at the end."""
    made = Server(*arguments)
    try:
        made.start()
        made.wait()
        yield made
    finally:
        made.kill()
