import io
import re

import pytest

from cnnsim_tf.run import progress
from cnnsim_tf.run.progress import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)


def shown(stream, repeats=2, images=100):
    with bar("subset training", repeats, repeats * images, "images", stream=stream) as running:
        for repeat in range(1, repeats + 1):
            running.report(repeat, images // 2)
            running.finish(repeat, images)
    return stream.getvalue()


def test_without_a_terminal_every_redrawing_is_a_line_without_control_characters(eager):
    text = shown(io.StringIO())
    assert "\r" not in text and "\x1b" not in text
    assert text.endswith("\n") and len(text.splitlines()) >= 4
    assert all(line.startswith("subset training") for line in text.splitlines())


def test_lines_name_the_repeats_done_the_share_done_and_the_time_gone_and_left(eager):
    lines = shown(io.StringIO()).splitlines()
    assert any(" 25 %" in line and "0 of 2 repeats" in line for line in lines)
    assert any(" 75 %" in line and "1 of 2 repeats" in line for line in lines)
    for line in lines[1:]:
        assert re.search(r"\d of 2 repeats · \d\d:\d\d gone, \d\d:\d\d left · ", line), line
    assert "100 %" in lines[-1] and "images/s" in lines[-1]


def test_a_log_gets_few_lines_however_often_there_is_progress():
    stream = io.StringIO()
    with bar("warm start", 1, 10_000, "images", stream=stream) as running:
        for images in range(10_000):
            running.report(1, images + 1)
    assert len(stream.getvalue().splitlines()) <= 3


def test_a_log_line_fits_a_line_of_a_wide_terminal(eager):
    assert max(map(len, shown(io.StringIO(), repeats=100).splitlines())) <= 120


def test_in_a_terminal_the_bar_is_redrawn_in_place():
    text = shown(Terminal())
    assert text.count("\r") > 1
    assert text.count("\n") <= 1
    assert "2 of 2 repeats" in text and "100 %" in text


def test_without_a_stream_progress_goes_to_stderr(capsys):
    with bar("noising", 1, 10, "images") as running:
        running.finish(1, 10)
    out, err = capsys.readouterr()
    assert out == "" and "noising" in err and "100 %" in err


def test_an_error_inside_leaves_the_bar_closed_and_comes_through():
    stream = io.StringIO()
    with pytest.raises(KeyError), bar("noising", 1, 10, "images", stream=stream):
        raise KeyError
    assert stream.getvalue().endswith("\n")


def test_repeats_that_are_there_already_count_as_done_but_not_as_work(eager):
    stream = io.StringIO()
    with bar("warm start", 5, 200, "images", done=3, stream=stream) as running:
        running.report(4, 100)
    assert " 50 %" in stream.getvalue() and "3 of 5 repeats" in stream.getvalue()


def test_a_repeat_that_begins_anew_takes_its_images_back(eager):
    stream = io.StringIO()
    with bar("warm start", 2, 200, "images", stream=stream) as running:
        running.report(1, 100)
        running.report(1, 0)
        running.finish(1, 100)
    assert " 50 %" in stream.getvalue().splitlines()[-1]
