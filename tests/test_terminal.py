"""Whatever becomes of stdout and stderr, printing to them does not end the work."""

import io
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cnnsim_tf.process import terminal

TEXT = "89.1 ± 2.0 – 7 × “é” → 3 …"
WORK = """
import sys, threading
from cnnsim_tf.process import terminal
from cnnsim_tf.run.progress import bar
terminal.PATIENCE = 200
terminal.steady()
def work():
    for i in range(2000):
        print("a line on stdout – ×", i)
        terminal.say("a line on stderr – ×")
thread = threading.Thread(target=work)
thread.start()
with bar("warm start", 1, 1000, "images") as shown:
    for i in range(1000):
        shown.report(1, i)
thread.join()
with open(sys.argv[1], "w") as done:
    done.write("done")
"""


def worked(tmp_path, seconds=60, **more):
    """Run much printing in a process of its own; return its exit code once it has worked to its end."""
    done = tmp_path / "done"
    given = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
    command = [sys.executable, "-c", textwrap.dedent(WORK), str(done)]
    with subprocess.Popen(command, **given) as process:
        code = process.wait(timeout=seconds)
    assert done.read_text() == "done"
    return code


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_does_not_end_the_work(tmp_path, stream):
    with Path("/dev/full").open("w") as full:
        assert worked(tmp_path, **{stream: full}) == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_does_not_end_the_work(tmp_path, stream):
    reading, writing = os.pipe()
    os.close(reading)
    assert worked(tmp_path, **{stream: writing}) == 0
    os.close(writing)


def test_a_reader_that_does_not_read_does_not_hang_the_work(tmp_path):
    reading, writing = os.pipe()
    assert worked(tmp_path, stdout=writing, stderr=writing) == 0
    os.close(writing)
    os.close(reading)


def test_descriptors_that_are_closed_do_not_end_the_work_and_no_file_takes_their_place(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WORK), str(tmp_path / "done")]
    code = subprocess.call(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command])
    assert code == 0
    assert (tmp_path / "done").read_text() == "done"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "koi8-r", "ascii:strict"])
def test_what_an_encoding_does_not_have_is_written_in_plain_characters(encoding):
    script = f"from cnnsim_tf.process import terminal; terminal.steady(); print({TEXT!r}, {chr(0xDCFF)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, check=True
    )
    said = done.stdout.decode(encoding.partition(":")[0])
    assert "89.1" in said and " 7 " in said and "->" in said and "..." in said
    assert done.stderr == b""


def test_text_arrives_as_it_is_where_it_can():
    script = f"from cnnsim_tf.process import terminal; terminal.steady(); print({TEXT!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONIOENCODING": "utf-8"}, capture_output=True, check=True
    )
    assert done.stdout.decode() == f"{TEXT}\n"


def test_a_slow_reader_gets_all_of_it():
    script = "from cnnsim_tf.process import terminal; terminal.steady(); [print('x' * 99) for _ in range(3000)]"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        time.sleep(1)  # within the patience
        assert len(process.stdout.read()) == 300_000
    assert process.returncode == 0


def test_addresses_lose_their_passwords(monkeypatch):
    stream = io.StringIO()
    print("see http://anna:secret@host:5000/#/runs", file=terminal._Steady(stream))
    assert stream.getvalue() == "see http://host:5000/#/runs\n"


def test_control_characters_never_reach_a_terminal_and_progress_bars_work(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal._Steady(shown))
    terminal.say("\x1b[2J\x9b31m a name \x07\x08\u202e of a run\r × é\tß")
    print("\r 10 %|##|", file=sys.stderr)
    assert shown.getvalue() == "?[2J?31m a name ??? of a run? × é\tß\n\r 10 %|##|\n"
