import importlib
import json
import linecache
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import types
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import ROOT

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.measures import Measure
from cnnsim_tf.process.users_code import STOPPED, staying, turn_signals_into_exceptions
from cnnsim_tf.registry import Registry


@pytest.fixture
def noises():
    registry = Registry("noise")
    for name in ("gaussian", "blur", "rotation"):
        registry.register(name)(lambda name=name: name)
    return registry


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Return a function that writes a module and returns its name; modules are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(source, name="a_users_module"):
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        written.append(name)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def message_of(registry, name):
    with pytest.raises(ParameterError) as caught:
        registry.get(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_registered_name_gives_what_was_registered(noises):
    assert noises.get("blur")() == "blur"
    assert "blur" in noises
    assert "sharpen" not in noises


def test_names_come_in_the_order_of_registration(noises):
    assert list(noises) == ["gaussian", "blur", "rotation"]


def test_the_decorator_gives_back_what_it_decorates():
    def function():
        pass

    assert Registry("noise").register("f")(function) is function


def test_registering_a_name_twice_is_an_error_and_keeps_the_first(noises):
    with pytest.raises(ValueError, match="noise 'blur' is registered twice"):
        noises.register("blur")(lambda: "another")
    assert noises.get("blur")() == "blur"


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(noises):
    assert message_of(noises, "gausian") == (
        "unknown noise 'gausian': did you mean 'gaussian'? known are gaussian, blur, rotation, "
        "and your own as package.module:function"
    )


def test_a_name_that_is_like_no_other_gets_no_guess(noises):
    message = message_of(noises, "xyzzy")
    assert "did you mean" not in message
    assert "gaussian, blur, rotation" in message


@dataclass(frozen=True)
class Entry:
    function: object
    large: bool = True

    def __call__(self):
        return self.function()


def test_an_entry_is_made_of_a_function_and_what_is_said_of_it(user_module):
    registry = Registry("fact", entry=Entry)
    small = registry.register("small", large=False)(len)
    assert registry.get("small") is registry.found("small") is small and small == Entry(len, large=False)
    own = user_module("from test_registry import Entry\nplain, said = len, Entry(max, False)\n")
    assert (registry.get(f"{own}:plain"), registry.found(f"{own}:plain")) == (Entry(len), len)
    assert registry.get(f"{own}:said") == registry.found(f"{own}:said") == Entry(max, False)
    with pytest.raises(TypeError, match="takes no facts: large"):
        Registry("noise").register("loud", large=True)(len)


def test_a_path_gives_a_users_function(noises, user_module):
    name = user_module(
        "def noise():\n    return 'mine'\n\nclass Noises:\n    @staticmethod\n    def f(): return 'in'\n"
    )
    assert noises.get(f"{name}:noise")() == "mine"
    assert noises.get(f"{name}:Noises.f")() == "in"
    assert noises.get("json:dumps") is json.dumps


@pytest.mark.parametrize("path", ["no_such_module:f", "json:nothing", "json:", ":f", "json:dumps.nothing", ".near:f"])
def test_what_cannot_be_imported_is_named(noises, path):
    message = message_of(noises, path)
    assert message.startswith(f"cannot import the noise {path!r}")


@pytest.mark.parametrize("path", ["no_such_module:f", "no.such:f", ":f", ".near:f", "a b:f"])
def test_a_module_that_is_not_there_is_told_before_anything_is_imported(noises, path):
    with pytest.raises(ParameterError, match=rf"^cannot import the noise {path!r}: ModuleNotFoundError: No module"):
        noises.check(path)


@pytest.mark.parametrize("name", ["gausian", "xyzzy", ""])
def test_a_name_that_stands_for_nothing_is_told_when_it_is_checked_as_when_it_is_asked_for(noises, name):
    with pytest.raises(ParameterError) as caught:
        noises.check(name)
    assert str(caught.value) == message_of(noises, name)


def test_names_that_may_stand_for_something_are_let_through_and_no_module_of_the_users_is_imported(noises, user_module):
    name = user_module("raise OSError('imported')")
    for each in ("blur", f"{name}:noise", f"{name}.part:noise", "__main__:noise"):
        noises.check(each)
    assert name not in sys.modules


def test_a_module_without_a_spec_such_as_a_scripts_own_can_be_named(noises, monkeypatch):
    monkeypatch.setitem(sys.modules, "of_a_script", types.ModuleType("of_a_script"))
    sys.modules["of_a_script"].noise = len
    noises.check("of_a_script:noise")
    assert noises.get("of_a_script:noise") is len


@pytest.mark.parametrize("source", ["def noise(:\n", "1 / 0\n", "raise OSError('no')\n", "import no_such_module\n"])
def test_a_users_module_that_fails_while_it_is_imported_is_a_parameter_error(noises, user_module, source):
    name = user_module(source)
    assert message_of(noises, f"{name}:noise").startswith(f"cannot import the noise '{name}:noise'")


def test_what_is_not_callable_is_refused(noises):
    assert message_of(noises, "math:pi") == "the noise 'math:pi' is not a function"


def test_a_registered_entry_has_no_source_digest(noises):
    assert noises.source_digest("blur") is None


def test_the_source_digest_of_a_users_function_follows_its_files_content(noises, user_module):
    first = noises.source_digest(user_module("def noise():\n    return 1\n") + ":noise")
    again = noises.source_digest(user_module("def noise():\n    return 1\n") + ":noise")
    other = noises.source_digest(user_module("def noise():\n    return 2222\n") + ":noise")
    assert first == again
    assert len(first) == 64
    assert other != first


def test_the_source_digest_follows_the_rest_of_the_file_too(noises, user_module):
    source = "FACTOR = {}\n\ndef noise():\n    return FACTOR\n"
    first = noises.source_digest(user_module(source.format(1)) + ":noise")
    assert noises.source_digest(user_module(source.format(10)) + ":noise") != first


@pytest.mark.parametrize(
    "source",
    [
        "from cnnsim_tf.measures import Measure\nmine = Measure(lambda a, b: {}, True, 0, 1, 'nothing')\n",
        "from functools import partial\ndef f(x): return x\nmine = partial(f, {})\n",
        "class F:\n    def __call__(self): return {}\nmine = F()\n",
    ],
    ids=["a Measure", "a partial", "an object with __call__"],
)
def test_the_source_digest_follows_the_users_file_for_callables_that_are_no_functions(noises, user_module, source):
    first = noises.source_digest(user_module(source.format(1)) + ":mine")
    assert noises.source_digest(user_module(source.format(10)) + ":mine") != first


def test_the_source_digest_follows_the_file_that_a_function_is_written_in_where_a_package_passes_it_on(
    noises, user_module
):
    digests = []
    for number in (1, 10):
        user_module(f"def noise():\n    return {number}\n", "written_here")
        digests.append(noises.source_digest(user_module("from written_here import noise\n", "passed_on") + ":noise"))
    assert digests[0] != digests[1]


def test_a_users_measure_object_is_found_by_its_path(noises, user_module):
    name = user_module(
        "from cnnsim_tf.measures import Measure\nmine = Measure(lambda a, b: a, False, 0, 1, 'nothing')\n"
    )
    assert isinstance(noises.get(f"{name}:mine"), Measure)


def test_what_has_no_source_has_no_source_digest(noises):
    assert noises.source_digest("math:sqrt") is None


def test_the_source_digest_follows_what_the_users_module_imports_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_folder").mkdir()
    digests = []
    for text in ("x", "x + 1"):
        (tmp_path / "own_folder" / "deep.py").write_text(f"def deep(x):\n    return {text}\n")
        (tmp_path / "own_helper.py").write_text("import numpy\nimport own_folder.deep\ndef of(x):\n    return x\n")
        (tmp_path / "own_start.py").write_text("from own_helper import of\ndef noise(x, level, rng):\n    return x\n")
        digests.append(Registry("noise").source_digest("own_start:noise"))
        for name in ("own_start", "own_helper", "own_folder.deep", "own_folder"):
            sys.modules.pop(name)
        linecache.clearcache()
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "own_folder" / "__pycache__", ignore_errors=True)
    assert digests[0] != digests[1]


def test_a_misspelt_function_of_the_users_gets_the_nearest(user_module):
    module = user_module("bigger_cnn = len\n")
    with pytest.raises(ParameterError, match="no attribute 'biger_cnn', did you mean 'bigger_cnn'"):
        Registry("CNN").get(f"{module}:biger_cnn")


LEAVING = ["sys.exit(0)", "sys.exit('done')", "raise KeyboardInterrupt", "exit()", "raise GeneratorExit('gone')"]


@pytest.mark.parametrize("leaves", LEAVING)
def test_a_users_code_that_would_end_the_process_is_an_error_with_its_name(user_module, leaves):
    what = {"exit()": "SystemExit: None", "sys.exit('done')": "SystemExit: done", "sys.exit(0)": "SystemExit: 0"}
    reason = what.get(leaves) or leaves.split()[1].split("(")[0]
    name = f"{user_module(f'import sys; {leaves}')}:noise"
    with pytest.raises(ParameterError, match=f"cannot import the noise {name!r}: {reason}"):
        Registry("noise").get(name)
    name = user_module(f"import sys\ndef noise(*_):\n    {leaves}\n") + ":noise"
    for registry in (Registry("noise"), Registry("noise", chance="rng")):
        with pytest.raises(StudyError, match=f"the noise {name!r} raised {reason}"):
            registry.call(name, registry.get(name))


IN_A_THREAD = """
import sys, threading

def work():
    {}

def noise(*_):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return 0.0
"""


@pytest.mark.parametrize("leaves", [*LEAVING[:3], "1 / 0"])
def test_a_thread_of_a_users_function_that_dies_is_an_error_of_the_function(user_module, capsys, leaves):
    module = user_module(IN_A_THREAD.format(leaves))
    registry = Registry("noise")
    with pytest.raises(StudyError, match=rf"the noise '{module}:noise' started a thread that died of .* in 'work'"):
        registry.call(f"{module}:noise", registry.get(f"{module}:noise"))
    assert capsys.readouterr().err == ""
    module = user_module(IN_A_THREAD.format("pass"))
    assert registry.call(f"{module}:noise", registry.get(f"{module}:noise")) == 0  # it is told once


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_a_users_code_runs_is_none_of_its_errors(user_module, stop, monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    source = f"import signal\n{{}}signal.raise_signal({int(stop)})\n"
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        turn_signals_into_exceptions()
        name = user_module(source.format("def noise():\n    ")) + ":noise"
        with pytest.raises(STOPPED), staying():
            Registry("noise").call(name, Registry("noise").get(name))
        name = user_module(source.format("")) + ":noise"
        with pytest.raises(STOPPED):
            Registry("noise").get(name)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_process_ends_although_a_users_thread_goes_on():
    script = (
        "import sys, threading, time\n"
        "from cnnsim_tf.process import users_code\n"
        "users_code.SECONDS_LEFT = 0.1\n"
        "with users_code.leaving():\n"
        "    threading.Thread(target=time.sleep, args=(60,), name='of mine').start()\n"
        "    sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, "of mine" in done.stderr) == (3, True)


def test_a_users_thread_that_dies_after_the_study_is_told(tmp_path):
    (tmp_path / "mine.py").write_text("import threading\nthreading.Timer(0.2, lambda: 1 / 0).start()\n")
    script = (
        "from cnnsim_tf.process import users_code\n"
        "users_code.hear_of_threads()\n"
        "with users_code.leaving():\n"
        "    import mine\n"
    )
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=30)
    assert (
        done.stderr.startswith("a thread of your own code died of ZeroDivisionError") and done.stderr.count("\n") == 1
    )


def test_a_users_module_moves_neither_the_study_nor_its_store(user_module, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/here.db")
    monkeypatch.setattr(sys, "argv", ["noising.py", "--dataset=mine"])
    for place in ("_tracking_service.utils._tracking_uri", "_model_registry.utils._registry_uri"):
        monkeypatch.setattr(f"mlflow.tracking.{place}", None)  # put back, too
    before = Path.cwd(), mlflow.get_tracking_uri(), mlflow.get_registry_uri(), dict(os.environ)
    source = """
        import argparse, mlflow, os
        argparse.ArgumentParser().parse_args()
        os.chdir("/")
        os.environ["MLFLOW_EXPERIMENT_NAME"] = "another"
        mlflow.set_tracking_uri("sqlite:////tmp/elsewhere.db")
        mlflow.set_registry_uri("sqlite:////tmp/registry.db")
        noise = len
    """
    assert Registry("noise").get(f"{user_module(textwrap.dedent(source))}:noise") is len
    assert (Path.cwd(), mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == before[:3]
    changed = {k: v for k, v in os.environ.items() if before[3].get(k) != v}
    assert set(changed) <= {"MLFLOW_REGISTRY_URI"} and sys.argv == ["noising.py", "--dataset=mine"]


# --- chance ----------------------------------------------------------------------------------------------------------

CHANCES = {
    "numpy's global generator": "np.random.normal(size=images.shape)",
    "an unseeded generator": "np.random.default_rng().normal(size=images.shape)",
    "random": "random.random() + 0 * images",
    "TensorFlow's global generator": "tf.random.normal(images.shape).numpy()",
    "the clock": "time.perf_counter_ns() + 0 * images",
    "what it was called with before": "len(calls) + 0 * images",
    "bytes of the system": "np.frombuffer(os.urandom(images.size), np.uint8)",
}
MODULE = """
import os, random, time
import numpy as np
calls = []

def noise(images, level, rng):
    calls.append(1)
    return {}
"""


@pytest.mark.parametrize("source", CHANCES)
def test_a_users_function_with_another_source_of_chance_is_refused_when_it_is_first_called(user_module, source):
    seeded = "import tensorflow as tf\ntf.random.set_seed(1)\n" if "tf." in CHANCES[source] else ""
    name = f"{user_module(seeded + MODULE.format(CHANCES[source]))}:noise"
    registry = Registry("noise", chance="rng")
    with pytest.raises(StudyError, match="it must take all its chance from rng and keep nothing between calls"):
        registry.call(name, registry.get(name), np.ones((3, 4)), 1.0, np.random.default_rng(0))


@pytest.mark.parametrize("source", ["rng.normal(size=images.shape)", "images * np.nan", "images + 1"])
def test_a_users_function_that_takes_its_chance_from_its_rng_gives_what_one_call_gives(user_module, source):
    name = f"{user_module(MODULE.format(source))}:noise"
    registry = Registry("noise", chance="rng")
    given = registry.call(name, registry.get(name), np.ones((3, 4)), 1.0, np.random.default_rng(5))
    expected = registry.get(name)(np.ones((3, 4)), 1.0, np.random.default_rng(5))
    np.testing.assert_array_equal(given, expected)


ELSEWHERE = {
    "hashes of texts": ("", "default_rng(abs(hash('salt')))"),
    "what was drawn when it was imported": ("RNG = np.random.default_rng()\nMASK = RNG.random()", "default_rng(0)"),
    "the second": ("", "default_rng(int(time.time()))"),
    "what a cache keeps": ("import functools\ndraw = functools.cache(lambda: np.random.rand())", "default_rng(0)"),
}


@pytest.mark.parametrize("source", ELSEWHERE)
def test_a_users_function_that_gives_something_else_in_another_process_is_refused(user_module, source):
    before, generator = ELSEWHERE[source]
    chance = "MASK" if "MASK" in before else "draw()" if "draw" in before else "0"
    body = f"import time\nimport numpy as np\n{before}\ndef noise(images, level, rng):\n    print('told')\n"
    name = f"{user_module(body + f'    return images + {chance} + np.random.{generator}.random()')}:noise"
    registry = Registry("noise", chance="rng")
    with pytest.raises(StudyError, match="it must take all its chance from rng"):
        registry.call(name, registry.get(name), np.ones((3, 4)), 1.0, np.random.default_rng(0))


def test_it_is_tried_twice_only_the_first_time(user_module):
    module = user_module(MODULE.format("images"))
    registry = Registry("measure", chance="")
    for _ in range(3):
        registry.call(f"{module}:noise", registry.get(f"{module}:noise"), np.ones(3), 1, None)
    assert len(sys.modules[module].calls) == 4


def test_where_chance_is_not_of_interest_a_function_is_called_once(user_module):
    module = user_module(MODULE.format("random.random()"))
    registry = Registry("CNN")
    registry.call(f"{module}:noise", registry.get(f"{module}:noise"), 28, 10, None)
    assert len(sys.modules[module].calls) == 1


# --- names without libraries -----------------------------------------------------------------------------------------

NAMES = """
import json, sys
found = {}
for module in ("cnn", "datasets", "layer_measures", "measures", "noise", "schemes"):
    loaded = __import__(f"cnnsim_tf.{module}", fromlist=["?"])
    names = getattr(loaded, "CNNS" if module == "cnn" else f"{module.removesuffix('s').upper()}S")
    heavy = [name for name in ("tensorflow", "keras", "mlflow", "scipy") if name in sys.modules]
    found[module] = [*names], heavy
print(json.dumps(found))
"""


def test_names_are_known_without_the_libraries_that_take_seconds():
    run = [sys.executable, "-c", NAMES]
    found = json.loads(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert all(names for names, _ in found.values())
    assert [module for module, (_, heavy) in found.items() if heavy] == []
