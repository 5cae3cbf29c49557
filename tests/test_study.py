import dataclasses
import json
import math
import re

import pytest

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.study import Study, Sweep

FIELDS = [f.name for f in dataclasses.fields(Study)]
SETTINGS = ("registered_model", "device", "engine", "scheduler", "country", "fresh")  # which do not change results

# Parameter, value, what the message says is allowed.
NOT_ALLOWED = [
    ("level", -0.1, "0 to 10"),
    ("level", math.nan, "0 to 10"),
    ("level", math.inf, "0 to 10"),
    ("level", 10.5, "0 to 10"),
    ("level", True, "0 to 10"),
    ("level", "1", "0 to 10"),
    ("level", None, "0 to 10"),
    ("seed", -1, "0 to 4294967295"),
    ("seed", 2**32, "0 to 4294967295"),
    ("seed", False, "0 to 4294967295"),
    ("seed", 0.5, "0 to 4294967295"),
    ("repeats", 0, "1 to 100000"),
    ("repeats", 1.5, "1 to 100000"),
    ("repeats", True, "1 to 100000"),
    ("repeats", math.nan, "1 to 100000"),
    ("repeats", math.inf, "1 to 100000"),
    ("epochs", 0, "1 to 100000"),
    ("target_epochs", 0, "1 to 100000"),
    ("target_images", -1, "0 to 100000000"),
    ("target_images", 0.5, "0 to 100000000"),
    ("batch_size", 0, "1 to 1000000"),
    ("learning_rate", 0, "above 0 and at most 10"),
    ("learning_rate", -0.001, "above 0 and at most 10"),
    ("learning_rate", math.inf, "above 0 and at most 10"),
    ("learning_rate", math.nan, "above 0 and at most 10"),
    ("learning_rate", 11, "above 0 and at most 10"),
    ("device", "tpu", "auto, cpu, gpu"),
    ("device", 0, "text"),
    ("fresh", "yes", "true or false"),
    ("fresh", 1, "true or false"),
    ("dataset", 3, "text"),
    ("dataset", "  ", "needs a value"),
    ("cnn", "", "needs a value"),
    ("registered_model", "", "needs a value"),
    ("registered_model", "a/b", "up to 200 letters"),
    ("registered_model", "..", "up to 200 letters"),
    ("registered_model", "a\nb", "up to 200 letters"),
    ("registered_model", "a" * 201, "up to 200 letters"),
    ("registered_model", "a:b", "up to 200 letters"),
    ("registered_model", "a\\b", "up to 200 letters"),
    ("registered_model", "a'b", "up to 200 letters"),
    ("engine", "fast", "auto, fleet, keras"),
    ("scheduler", "head", "must be local or the address that the Dask scheduler prints"),
    ("scheduler", "tcp://head", "must be local or the address that the Dask scheduler prints"),
    ("scheduler", "http://head:8787", "its dashboard's, http://…, is none"),
    ("scheduler", "http://head:80/x", "must be local or the address that the Dask scheduler prints"),
    ("noises", ("blur", ""), "at least 2 names"),
    ("noises", ("blur",), "at least 2 names"),
    ("noises", (), "at least 2 names"),
    ("noises", "blur,rotation", "list of names"),
    ("noises", ("blur", 3), "list of names"),
    ("measures", (), "at least 1 name"),
    ("measures", (" ",), "at least 1 name"),
    ("variants", (), "at least 1 name"),
    ("layer_measures", (), "at least 1 name"),
    ("layer_measures", "linear_cka", "list of names"),
    ("align", "channels", "none, filters, network"),
    ("align", "None", "none, filters, network"),
    ("align", None, "text"),
    ("target", "noised", "clean, noisy, mixed"),
    ("target", "", "needs a value"),
    ("country", " ", "needs a value"),
    ("country", 31, "text"),
]


def one_sentence(message):
    return "\n" not in message and not re.search(r"\. +[A-Z]", message) and not message.endswith(".")


@pytest.mark.parametrize(("name", "value", "allowed"), NOT_ALLOWED)
def test_a_value_out_of_range_or_type_is_refused_in_one_sentence_with_name_value_and_remedy(name, value, allowed):
    with pytest.raises(ParameterError) as caught:
        Study(**{name: value})
    message = str(caught.value)
    shown = ",".join(map(str.strip, value)) if isinstance(value, tuple) and "list of" not in allowed else value
    assert one_sentence(message)
    assert message.startswith(name)
    assert allowed in message
    assert repr(shown) in message or "is empty" in message


@pytest.mark.parametrize("name", ["noises", "measures", "layer_measures", "variants"])
def test_a_name_given_twice_is_refused(name):
    with pytest.raises(ParameterError, match=rf"^{name} names 'x' twice: each may stand there once$"):
        Study(**{name: ("x", "y", " x ")})


@pytest.mark.parametrize("name", ["seed", "level"])
def test_an_integer_too_large_for_a_float_is_refused_like_any_other(name):
    with pytest.raises(ParameterError, match=f"^{name} is "):
        Study(**{name: 10**400})


@pytest.mark.parametrize("value", [None, 3])
def test_what_is_no_list_at_all_is_refused_as_a_list_of_names(value):
    with pytest.raises(ParameterError, match="list of names"):
        Study(noises=value)


@pytest.mark.parametrize(("name", "value"), [("dataset", "d\udcff/\udc80.npz"), ("noises", ("blur", "\udcff\udc80"))])
def test_what_is_not_utf_8_is_named_with_its_bytes(name, value):
    with pytest.raises(ParameterError) as caught:
        Study(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} is ") and "not UTF-8" in message
    assert message.encode() and r"\xff" in message and r"\x80" in message


def test_a_parameter_error_is_a_study_error_with_exit_code_2():
    assert issubclass(ParameterError, StudyError)
    assert (StudyError.exit_code, ParameterError.exit_code) == (1, 2)


def test_the_limits_themselves_are_allowed():
    low = Study(level=0, seed=0, repeats=1, epochs=1, target_epochs=1, batch_size=1, learning_rate=1e-12)
    high = Study(level=10, seed=2**32 - 1, repeats=100_000, learning_rate=10, batch_size=1_000_000)
    assert (low.level, high.seed) == (0.0, 4294967295)


def test_values_come_out_in_their_parameters_types_and_names_without_blanks():
    study = Study(level=1, seed=3.0, noises=[" blur", "rotation "])
    assert type(study.level) is float
    assert type(study.seed) is int
    assert study.noises == ("blur", "rotation")


def test_the_defaults_are_the_published_setting():
    study = Study()
    assert study.noises == ("perspective", "blur", "gaussian", "erasing", "elastic", "rotation")
    assert (study.level, study.epochs, study.target_epochs, study.batch_size) == (1.0, 6, 1, 64)
    assert study.learning_rate == 0.001
    assert study.measures == ("cosine", "pearson", "frobenius")
    assert (study.align, study.target) == ("none", "clean")


def test_a_study_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Study().seed = 3


def test_values_are_plain_json_and_make_the_same_study_again():
    values = Study(level=0.5).values()
    assert json.loads(json.dumps(values)) == values
    assert list(values) == FIELDS
    assert Study(**values) == Study(level=0.5)


# --- sweeps ----------------------------------------------------------------------------------------------------------


def swept(parameter, values, study=None):
    """Return the values that a sweep gives a parameter."""
    return [getattr(s, parameter) for s in Sweep(parameter, values).studies(study or Study())]


def test_a_sweep_is_over_the_level_from_none_to_twice_the_published_one():
    sweep = Sweep()
    assert [s.level for s in sweep.studies(Study())] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert sweep.texts == ["0", "0.5", "1", "1.5", "2"]
    assert sweep.numeric


def test_a_sweep_changes_its_parameter_and_nothing_else():
    study = Study(seed=7, level=0.25, variants=("random_init", "cosine"))
    for each in Sweep("epochs", "1, 2,12").studies(study):
        assert dataclasses.replace(each, epochs=study.epochs) == study
    assert swept("epochs", "1, 2,12", study) == [1, 2, 12]


@pytest.mark.parametrize(
    ("parameter", "values", "expected"),
    [
        ("learning_rate", "1e-4,0.001", [1e-4, 1e-3]),
        ("batch_size", "64,32", [64, 32]),
        ("align", "none, filters,network", ["none", "filters", "network"]),
        ("dataset", "mnist,fashion_mnist", ["mnist", "fashion_mnist"]),
        ("dataset", "a,b.npz;c.npz", ["a,b.npz", "c.npz"]),
        ("noises", "blur,rotation; blur,elastic", [("blur", "rotation"), ("blur", "elastic")]),
        ("measures", "cosine;pearson", [("cosine",), ("pearson",)]),
    ],
)
def test_swept_values_have_their_parameters_type_and_lists_are_separated_by_semicolons(parameter, values, expected):
    found = swept(parameter, values)
    assert found == expected
    assert [type(v) for v in found] == [type(v) for v in expected]


@pytest.mark.parametrize("name", [*SETTINGS, "parameter", "levels", ""])
def test_what_does_not_decide_results_cannot_be_swept(name):
    with pytest.raises(ParameterError, match=r"^parameter is .*a sweep can be over ") as caught:
        Sweep(name, "1,2")
    assert one_sentence(str(caught.value))
    allowed = str(caught.value).split("can be over ")[1].split(", ")
    assert allowed == [n for n in FIELDS if n not in SETTINGS]


@pytest.mark.parametrize(("name", "meant"), [("levels", "level"), ("epoch", "epochs"), ("noise", "noises")])
def test_a_misspelt_parameter_of_a_sweep_is_answered_with_the_nearest(name, meant):
    with pytest.raises(ParameterError, match=f"^parameter is '{name}': did you mean '{meant}'\\? a sweep can be over "):
        Sweep(name, "1,2")


@pytest.mark.parametrize("parameter", ["noises", "variants", "measures"])
def test_a_sweep_over_lists_says_that_semicolons_separate_them(parameter):
    with pytest.raises(ParameterError, match=r"lists of names.* separated by semicolons") as caught:
        Sweep(parameter, "blur,gaussian")
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize("values", ["", "1", "1,1", "0.5, 1 ,0.5", "1,", ";"])
def test_a_sweep_over_fewer_than_two_different_values_is_refused(values):
    with pytest.raises(ParameterError) as caught:
        Sweep("level", values)
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("parameter", "values", "match"),
    [
        ("level", "0,much", "level is 'much': it must be a number, 0 to 10"),
        ("level", "0,11", "level is 11: it must be a number, 0 to 10"),
        ("epochs", "1,1.5", "epochs is 1.5: it must be a whole number"),
        ("target", "clean,dirty", "target is 'dirty': it must be one of clean, noisy, mixed"),
        ("noises", "blur,rotation;blur", "noises is 'blur': it needs at least 2 names"),
        ("noises", "blur,rotation", "a sweep needs at least two values"),
    ],
)
def test_a_value_that_the_parameter_cannot_have_is_refused_before_anything_runs(parameter, values, match):
    with pytest.raises(ParameterError, match=match):
        Sweep(parameter, values)


@pytest.mark.parametrize("values", ["1,1.0", "0.5,.5", "0,-0,1"])
def test_the_same_value_in_two_spellings_is_given_twice(values):
    with pytest.raises(ParameterError, match="each of them once"):
        Sweep("level", values)


def test_an_address_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(ParameterError, match="scheduler is 'tls://head:8786'"):
        Study(scheduler="tls://anna:secret@head:8786")
