"""Studies that are killed at random moments, up to three times each, end as one that nobody disturbs.

`make kills N=100` kills a hundred times; with STEPS=real, whose steps draw, train and register models.
"""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forks import Forks
from mlflow.tracking import MlflowClient
from stored import children_of, file_of, options_of, runs_of, steps_of

pytestmark = pytest.mark.slow

KILLS, STEPS = int(os.environ.get("KILLS", 5)), os.environ.get("STEPS", "toy")
SEED = os.environ.get("SEED", "0")
VARIANTS = ["random_init", "cosine"]
FEW = {"repeats": 3, "noises": "blur,rotation", "measures": "cosine", "variants": ",".join(VARIANTS)}
if STEPS == "real":
    FEW |= {"epochs": 1, "layer_measures": "linear_cka"}


@pytest.fixture
def forks(users_environment, request):
    if STEPS == "toy":
        yield request.getfixturevalue("toys")
        return
    environment = users_environment | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with contextlib.closing(Forks(STEPS, environment)) as made:
        yield made


def state_of(client):
    """Return what a user finds of a study: statuses, tables of finished steps, names of children, models."""
    runs = runs_of(client)
    steps = steps_of([r for r in runs if r.info.status == "FINISHED"])
    variants = [r for r in children_of(runs, steps["warmstart"]) if r.data.tags["cnnsim.role"] == "variant"]
    versions = client.search_model_versions("name='cnnsim_warmstart'")
    return {
        "statuses": {r.info.status for r in runs} - {"KILLED"},
        "steps": sorted(steps),
        "variants": sorted(r.info.run_name for r in variants),
        "versions": sorted(v.tags["variant"] for v in versions),
        "aliases": sorted(alias for v in versions for alias in v.aliases),
        **{f"{s}/{p.name}": p.read_bytes() for s, r in steps.items() for p in sorted(file_of(r, "tables").iterdir())},
    }


def test_studies_killed_at_random_moments_end_as_one_that_nobody_disturbs(forks, new_store, tiny_mnist, tmp_path):
    words = ["warmstart", *options_of(dataset=tiny_mnist, **FEW)]
    rng, killed, different = random.Random(SEED), 0, []

    def run(folder, uri, moment=""):
        study = forks.start(words, folder, uri, moment)
        return study.code, study.said()

    (tmp_path / "undisturbed").mkdir()
    uri = new_store(tmp_path / "undisturbed")
    begun = time.monotonic()
    assert run(tmp_path / "undisturbed", uri, "after 1000")[0] == 0
    whole, expected = time.monotonic() - begun, state_of(MlflowClient(uri))
    assert len(expected) > 10
    while killed < KILLS:
        folder = tmp_path / str(killed)
        folder.mkdir()
        uri, moments = new_store(folder), []
        for _ in range(min(rng.randint(1, 3), KILLS - killed)):
            moments.append(f"after {rng.uniform(0, whole):.3f}")
            code, said = run(folder, uri, moments[-1])
            assert code in (0, -signal.SIGALRM) and "Traceback" not in said, said
            killed += 1
        code, said = run(folder, uri)
        assert code == 0 and "Traceback" not in said, said
        found = state_of(MlflowClient(uri))
        wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
        print(f"{killed} of {KILLS} kills, {', '.join(moments)} s: {len(wrong)} differences {wrong or ''}", flush=True)
        different += wrong
    assert different == []
