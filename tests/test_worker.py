"""A worker computes only what the study's own process would compute."""

import dataclasses
import gc
import pickle
import sys
import weakref
from importlib.metadata import Distribution, PackageNotFoundError, version
from types import SimpleNamespace

import numpy as np
import pytest

from cnnsim_tf import datasets
from cnnsim_tf.errors import StudyError
from cnnsim_tf.noise import NOISES
from cnnsim_tf.pipeline import PIPELINE, Step
from cnnsim_tf.run import worker
from cnnsim_tf.run.registration import REQUIREMENTS
from cnnsim_tf.run.storage import Identity, from_npz
from cnnsim_tf.run.worker import PACKAGE, Recipe, compute, context_of, recipe_of, software_of
from cnnsim_tf.steps.step import Context, passing
from cnnsim_tf.study import Study

OWN = f"{__name__}:negative"
SOFTWARE = software_of(PIPELINE.software)
STEPS = list(PIPELINE)
RECIPES = {step.name: f"fingerprint of {step.name}" for step in STEPS}


def negative(images, level, rng):
    return -images


@pytest.fixture
def study(tiny_mnist):
    return Study(dataset=str(tiny_mnist), noises=("blur", OWN), epochs=1, batch_size=8)


@pytest.fixture
def recipe(study, monkeypatch):
    """The recipe as another process gets it, which has not made the context yet."""
    monkeypatch.setattr(worker, "_contexts", {})
    monkeypatch.setattr(worker, "_first_seen", {})
    dataset = datasets.load(study.dataset)
    digests = PIPELINE.source_digests("warmstart", study) | {"dataset": dataset.digest}
    assert set(digests) == {f"noises {OWN}", "dataset"}
    return Recipe(study, tuple(sorted(digests.items())), SOFTWARE, threads=1)


def refused(recipe):
    with pytest.raises(StudyError) as caught:
        context_of(recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_context_is_made_from_names_and_digests_once(recipe):
    context = context_of(recipe)
    assert context.study == recipe.study and context.threads == 1
    assert context_of(dataclasses.replace(recipe)) is context


def test_the_process_that_runs_the_study_makes_no_second_context(study, recipe):
    context = Context(study, datasets.load(study.dataset))
    assert context_of(recipe_of(context, dict(recipe.digests), recipe.software)) is context


def test_what_is_sent_to_a_worker_is_the_same_there(recipe):
    assert pickle.loads(pickle.dumps((recipe, STEPS))) == (recipe, STEPS)


def test_only_the_latest_contexts_are_kept(recipe):
    contexts = [context_of(dataclasses.replace(recipe, threads=n)) for n in range(1, 7)]
    assert context_of(dataclasses.replace(recipe, threads=6)) is contexts[-1]
    assert len(worker._contexts) == worker.KEPT


@pytest.mark.parametrize("name", [name for name, _ in SOFTWARE])
def test_other_software_is_refused_by_name(recipe, name):
    other = tuple((n, "0.0.0" if n == name else v) for n, v in recipe.software)
    assert f"a worker has another {name} " in refused(dataclasses.replace(recipe, software=other))


@pytest.mark.parametrize("absent", ["tensorflow-addons", "tensorflow", "keras"])
def test_software_is_the_same_by_whatever_distributions_it_was_installed(monkeypatch, absent):
    """As on Linux on ARM, where TensorFlow is tensorflow-cpu-aws, and tensorflow-addons does not exist."""
    from_name = Distribution.from_name

    def without(name):
        if name == absent:
            raise PackageNotFoundError(name)
        return from_name(name)

    monkeypatch.setattr(Distribution, "from_name", without)
    with pytest.raises(PackageNotFoundError):
        version(absent)
    assert software_of.__wrapped__(PIPELINE.software) == SOFTWARE
    assert {"tensorflow", "keras", "numpy", "scipy", PACKAGE} == {name for name, _ in SOFTWARE}


def test_exported_models_require_what_installs_on_every_platform():
    assert tuple(f"{name}=={version(name)}" for name in ("mlflow", "tensorflow", "keras", "numpy")) == REQUIREMENTS


@pytest.mark.parametrize("name", ["dataset", f"noises {OWN}"])
def test_another_dataset_or_function_under_the_same_name_is_refused(recipe, name):
    other = tuple((n, "0" * 64 if n == name else v) for n, v in recipe.digests)
    assert f"a worker has another {name} than the study" in refused(dataclasses.replace(recipe, digests=other))


def test_a_function_whose_file_changed_since_it_was_imported_is_refused(recipe, monkeypatch):
    context_of(recipe)
    digest = "1" * 64  # what the file has become, here and where the study runs
    monkeypatch.setattr(NOISES, "source_digest", lambda entry: digest)
    changed = tuple((n, digest if n.startswith("noises") else v) for n, v in recipe.digests)
    assert f"another noises {OWN}" in refused(dataclasses.replace(recipe, digests=changed))


@pytest.mark.slow
def test_steps_in_one_go_give_the_bits_of_steps_one_by_one(recipe):
    """What noising passes on is what later steps would derive anew."""
    brief = {"measures": ("cosine",), "layer_measures": ("linear_cka",), "variants": ("random_init", "cosine")}
    recipe = dataclasses.replace(recipe, study=dataclasses.replace(recipe.study, **brief))
    context = context_of(recipe)
    together = compute(recipe, 2, STEPS, {}, RECIPES, lambda images: None)
    assert together["error"] is None
    one_by_one, stored = {}, {}
    for step in STEPS:
        (one_by_one[step.name],) = compute(recipe, 2, [step], stored, RECIPES, lambda images: None)["results"].values()
        identity = Identity(step.name, 2, RECIPES[step.name])
        stored[step.name] = from_npz(step.code.Result, one_by_one[step.name], identity, step.code.sizes(context))
    assert together["results"] == one_by_one


@dataclasses.dataclass(frozen=True)
class Passed:
    """What a step hands to the next one alone."""

    numbers: np.ndarray
    images: tuple[np.ndarray, ...] = passing(())


def test_what_a_step_passes_on_the_next_one_gets_alone_and_can_let_go_of(recipe, monkeypatch):
    seen = []

    def first(context, repeat, inputs, progress):
        images = np.zeros(10)
        seen.append(weakref.ref(images))
        return Passed(np.array([repeat]), (images,))

    def second(context, repeat, inputs, progress):
        assert inputs["first"].images[0] is seen[0]()
        result = inputs.pop("first").numbers + 1
        gc.collect()
        assert seen[0]() is None  # nobody else holds on to it
        return Passed(result)

    def third(context, repeat, inputs, progress):
        assert (inputs["first"].images, inputs["second"].numbers, inputs["stored"]) == ((), repeat + 1, "a result")
        return Passed(inputs["first"].numbers + inputs["second"].numbers)

    steps = []
    for function in (first, second, third):
        monkeypatch.setitem(sys.modules, f"step_{function.__name__}", SimpleNamespace(compute=function))
        steps.append(Step(function.__name__, "", 1, f"step_{function.__name__}", ""))
    recipes = {step.name: "" for step in steps}
    repeat = compute(recipe, 5, steps, {"stored": "a result"}, recipes, lambda images: None)
    assert repeat["error"] is None
    numbers = {name: from_npz(Passed, content).numbers.tolist() for name, content in repeat["results"].items()}
    assert numbers == {"first": [5], "second": [6], "third": [11]}


def broken(a, b):
    raise ZeroDivisionError("nothing to divide")


@pytest.mark.slow
def test_a_users_mistake_keeps_the_results_of_the_steps_before_it(recipe):
    study = dataclasses.replace(recipe.study, measures=(f"{__name__}:broken",), variants=("random_init",))
    mistaken = dataclasses.replace(recipe, study=study)
    repeat = compute(mistaken, 1, STEPS, {}, RECIPES, lambda images: None)
    assert "nothing to divide" in repeat["error"]
    assert list(repeat["results"]) == list(repeat["seconds"]) == ["noising", "subset_training"]
    assert min(repeat["seconds"].values()) > 0


def test_what_a_worker_lacks_is_said_to_be_missing_there(recipe):
    lacking = (*recipe.digests, ("measures not_on_this_worker:alike", "0" * 64))
    said = refused(dataclasses.replace(recipe, digests=lacking))
    assert said.startswith("a worker does not have what the study needs: ") and "not_on_this_worker" in said
    elsewhere = dataclasses.replace(recipe, study=dataclasses.replace(recipe.study, dataset="/not/on/this/worker.npz"))
    assert "a worker does not have what the study needs" in refused(elsewhere)
