"""A stored report is opened without what computes one."""

import json
import subprocess
import sys
import tempfile
import webbrowser
from pathlib import Path

import pytest
from conftest import ROOT
from stored import file_of

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.report.open import PAGE_FILE, REPORTED, run


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """The addresses that the browser is given."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return addresses


def finished(store, step, role="step", page=None, **more):
    """Return the id of a finished run that has this page."""
    experiment = store.get_experiment_by_name("study").experiment_id
    tags = {tracking.STEP: step, tracking.ROLE: role, **more}
    with tracking.run(store, experiment, f"the {step}", tags) as run_id:
        if page:
            tracking.log_digests(store, run_id, tracking.log_bytes(store, run_id, page.encode(), PAGE_FILE))
    return run_id


def content(addresses):
    (address,) = addresses
    return Path(address.removeprefix("file://")).read_text()


def test_warm_starts_and_sweeps_have_reports():
    assert REPORTED == ("warmstart", "sweep")


def test_the_newest_report_is_opened_and_its_place_printed(store, opened, capsys):
    finished(store, "warmstart", page="<p>first</p>")
    finished(store, "sweep", "sweep", page="<p>second, ß</p>")
    finished(store, "noising")
    run()
    assert content(opened) == "<p>second, ß</p>"
    assert capsys.readouterr().out == f"the sweep\n  {opened[0]}\n"


def test_a_run_is_opened_by_its_id_and_one_that_points_to_another_shows_that_ones(store, opened):
    first = finished(store, "warmstart", page="<p>first</p>")
    finished(store, "sweep", "sweep", page="<p>second</p>")
    points = finished(store, "warmstart", tracking.REUSE, **{tracking.REUSED: first})
    run(points)
    assert content(opened) == "<p>first</p>" and first in opened[0]
    opened.clear()
    run(first)
    assert content(opened) == "<p>first</p>"
    opened.clear()
    run()  # the one that points is the newest
    assert content(opened) == "<p>first</p>"


def test_what_cannot_be_opened_is_said_in_a_sentence(store, opened):
    with pytest.raises(StudyError, match=r"^no warm start or sweep has finished yet: `.*warmstart.*` runs one$"):
        run()
    with pytest.raises(StudyError, match=r"^no run has the id 'abc': "):
        run("abc")
    without = finished(store, "noising")
    with pytest.raises(
        StudyError, match=r"^the run 'the noising' has no report.html: warm starts and sweeps have one$"
    ):
        run(without)
    assert opened == []


@pytest.mark.parametrize("damage", ["page", "page and digests", "tag gone", "page gone"])
def test_a_page_that_the_runs_digest_does_not_vouch_for_is_not_opened(store, opened, damage):
    run_id = finished(store, "warmstart", page="<p>first</p>")
    page = file_of(store.get_run(run_id), PAGE_FILE)
    if "page" in damage:
        page.write_text("<script>alert(1)</script>")
    if "digests" in damage:
        digests = {PAGE_FILE: tracking.digest_of(page.read_bytes())}
        page.with_name("digests.json").write_text(json.dumps(digests))
    if damage == "tag gone":
        store.delete_tag(run_id, "cnnsim.digests")
    if damage == "page gone":
        page.unlink()
    with pytest.raises(StudyError, match=r"^the report.html of the run 'the warmstart' .*: run the command .* again,"):
        run(run_id)
    assert opened == []


@pytest.mark.slow
def test_opening_a_report_imports_neither_tensorflow_nor_what_draws_and_computes():
    code = (
        "import sys, cnnsim_tf.report.open as o; heavy = {'tensorflow', 'keras', 'matplotlib.pyplot', 'scipy.stats'}; "
        "print(*heavy & {*sys.modules}, o.PAGE_FILE)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "report.html\n"
