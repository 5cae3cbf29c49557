"""Shows the stored report of a run in the browser, without TensorFlow."""

import tempfile
import webbrowser
from pathlib import Path

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.pipeline import PIPELINE

PAGE_FILE = "report.html"
REPORTED = (*(step.name for step in PIPELINE if step.has_report), "sweep")


def run(run_id: str = "") -> None:
    """Open a run's report, by default that of the newest finished warm start or sweep, and print where it is.

    Raises:
        StudyError: there is no such run, it has no report, or the page is not the one that was stored.
    """
    client = tracking.connect()
    if run_id:
        found = tracking.find_run(client, run_id)
        if found is None:
            raise StudyError(f"no run has the id {run_id!r}: the address of a run's page in the UI ends in its id")
    else:
        reported = tracking.find_reported(client, REPORTED)
        if not reported:
            raise StudyError(
                f"no warm start or sweep has finished yet: `{tracking.entry_command('warmstart')}` runs one"
            )
        found = reported[0]
    if pointed_to := found.data.tags.get(tracking.REUSED):
        found = tracking.get_run(client, pointed_to)
    content = tracking.read_bytes(client, found.info.run_id, PAGE_FILE)
    if content is None and found.data.tags.get(tracking.STEP) not in REPORTED:
        raise StudyError(f"the run {found.info.run_name!r} has no {PAGE_FILE}: warm starts and sweeps have one")
    if content is None or (tracking.read_digests(client, found) or {}).get(PAGE_FILE) != tracking.digest_of(content):
        raise StudyError(
            f"the {PAGE_FILE} of the run {found.info.run_name!r} is gone, or not known to be the page that was stored, "
            "so it is not opened: run the command that made it again, which computes nothing and makes the page anew"
        )
    # A copy, since artifacts may lie on a server; of the run's own name, so that opening it again changes nothing.
    path = Path(tempfile.gettempdir()) / f"cnnsim_tf_{found.info.run_id}.html"
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)  # also where a link of somebody else's has that name
    print(f"{' '.join(found.info.run_name.split())}\n  {path.as_uri()}")
    webbrowser.open(path.as_uri())
