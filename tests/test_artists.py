"""Processes that draw figures beside the one that runs a study."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from waiting import wait_until

from cnnsim_tf.figures import filter_grid
from cnnsim_tf.process import SETTINGS
from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.run import artists

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


def grid(title: str = "Filters") -> Drawing:
    return Drawing(filter_grid, np.array([[[[0.5, -1.0], [0.0, 2.0]]]]), ["one"], ["row"], title)


@pytest.fixture(scope="module")
def two() -> Iterator[artists.Artists]:
    with artists.Artists(2) as pool:
        yield pool


def test_figures_drawn_elsewhere_are_those_drawn_here(two):
    drawings = [grid(str(i)) for i in range(5)]
    for drawing in drawings:
        drawing.begin(two, "png", "svg")
    for i, drawing in enumerate(drawings):
        assert [drawing.file(kind) for kind in ("png", "svg")] == [grid(str(i)).file(kind) for kind in ("png", "svg")]


def test_what_was_not_begun_is_drawn_when_it_is_asked_for_and_once():
    made = []

    def make() -> Figure:
        made.append(Figure())
        return made[-1]

    drawing = Drawing(make)
    assert not made
    assert drawing.file("png").startswith(b"\x89PNG") and drawing.file("png") is drawing.file("png")
    assert len(made) == 1
    drawing = Drawing(make)
    drawing.begin(None, "png", "svg")
    assert len(made) == 1
    assert drawing.file("png").startswith(b"\x89PNG") and b"<svg" in drawing.file("svg")
    assert len(made) == 2


def test_a_function_that_raises_raises_what_it_does_here(two):
    drawing = Drawing(filter_grid, [], [], [], "")
    drawing.begin(two, "png")
    with pytest.raises(ZeroDivisionError):
        drawing.file("png")
    assert two.submit(abs, -1).result() == 1


def test_what_killed_processes_do_not_get_done_is_done_here():
    with artists.Artists(2) as pool:
        assert {pool.submit(os.getpid).result() for _ in range(8)}.isdisjoint({os.getpid()})
        for each in pool._all:
            each.kill()
        assert pool.submit(os.getpid).result() == os.getpid()


def test_a_figure_is_the_same_here_and_there_whatever_a_users_function_has_set(two, monkeypatch):
    plain = grid().file("png")
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 25)
    there = grid()
    there.begin(two, "png")
    assert plain == grid().file("png") == there.file("png")
    assert matplotlib.rcParams["axes.facecolor"] == "red"


def test_where_no_thread_can_be_begun_figures_are_drawn_here(monkeypatch):
    def none(self):
        raise RuntimeError("can't start new thread")

    with artists.Artists(1) as pool:
        drawing = grid()
        with monkeypatch.context() as here:
            here.setattr(threading.Thread, "start", none)
            drawing.begin(pool, "png")
        assert drawing.file("png") == grid().file("png")


def test_what_is_no_text_among_pythons_paths_is_left_out(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/x")])
    with artists.Artists(1) as pool:
        assert pool.submit(os.getpid).result() == pool._all[0].pid


def test_drawing_takes_no_library_that_takes_long_to_import():
    code = "import sys, cnnsim_tf.figures; print({'pandas', 'tensorflow', 'mlflow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_a_python_to_start_all_is_done_here(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with artists.Artists(2) as pool:
        assert pool.submit(os.getpid).result() == os.getpid()


def test_what_is_printed_is_no_answer_and_what_cannot_be_sent_is_done_here():
    with artists.Artists(1) as pool:
        assert pool.submit(os.system, "echo printed").result() == 0
        assert pool.submit(print, "printed").result() is None
        assert pool.submit(os.getpid).result() == pool._all[0].pid
        assert pool.submit(lambda: os.getpid()).result() == os.getpid()


def test_leaving_ends_what_is_under_way():
    begun = time.monotonic()
    with artists.Artists(1) as pool:
        pool.submit(time.sleep, 100)
        waits = pool.submit(time.sleep, 100)
    assert waits.cancelled() and pool._all[0].poll() is not None
    assert time.monotonic() - begun < 50


@pytest.mark.parametrize("cores, free, count", [(1, 8, None), (2, 8, 2), (64, 8, 3), (64, 0.6, 2), (64, 0.4, None)])
def test_there_are_as_many_as_cores_and_memory_let_up_to_a_few(monkeypatch, cores, free, count):
    monkeypatch.setattr(artists, "cores", lambda: cores)
    monkeypatch.setattr(artists, "free_memory", lambda: int(free * 2**30))
    monkeypatch.setattr(artists, "MOST", 3)
    with artists.artists() as pool:
        assert pool is None if count is None else len(pool._all) == count


def test_they_do_not_outlive_a_killed_study():
    code = (
        "import os, time; from cnnsim_tf.run.artists import Artists; a = Artists(1);"
        "print(a.submit(os.getpid).result(), flush=True); time.sleep(100)"
    )
    study = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    artist = int(study.stdout.readline())
    study.send_signal(signal.SIGKILL)
    study.wait()

    def gone() -> bool:
        status = Path(f"/proc/{artist}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

    wait_until(gone)


def test_fonts_are_those_that_come_with_this_matplotlib():
    known = SETTINGS / f"fontlist-v{font_manager.FontManager.__version__}.json"
    fonts = font_manager.json_load(known).ttflist
    assert {"DejaVu Sans", "cmr10"} <= {font.name for font in fonts}
    assert all(Path(str(font.fname)).is_relative_to(matplotlib.get_data_path()) for font in fonts)
    assert all(Path(str(font.fname)).is_file() for font in fonts)
