"""Energy and CO2 of what is computed, metered by codecarbon on made-up machines, and split over the steps."""

import dataclasses
import hashlib
import importlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.run import cost
from cnnsim_tf.run.cost import Cost, check_country, metered, shares

AMOUNTS = ("energy_kwh", "co2_kg")
TOTAL = Cost(100.0, 0.5, 0.2, "measured by RAPL")
POWER_OF_CPU, POWER_OF_RAM = "CODECARBON_FORCE_CPU_POWER", "CODECARBON_FORCE_RAM_POWER"
NOTHING = "1e-9"  # W


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Any machine: no RAPL, a processor of 15 W that is found at once, nobody's settings, nothing remembered."""
    codecarbon_cpu = importlib.import_module("codecarbon.core.cpu")
    cache = importlib.import_module("codecarbon.core.hardware_cache")
    detect = importlib.import_module("codecarbon.core.util").detect_cpu_model
    monkeypatch.setattr("cpuinfo.get_cpu_info", lambda: {"brand_raw": "Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz"})
    monkeypatch.setattr(cost, "_name_the_processor", lambda: None)
    monkeypatch.setattr(codecarbon_cpu, "is_rapl_available", lambda *_: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.lower().startswith("codecarbon_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    cache.clear_cache()
    detect.cache_clear()
    yield monkeypatch
    cache.clear_cache()
    detect.cache_clear()
    assert set(threading.enumerate()) <= before


def finite(measured):
    return all(math.isfinite(getattr(measured, name)) for name in AMOUNTS)


def unknown(measured):
    return all(math.isnan(getattr(measured, name)) for name in AMOUNTS)


def compute(seconds):
    """Keep one core busy for so much processor time, as training does: without Python's lock."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        hashlib.sha256(bytes(1_000_000)).digest()


def test_a_block_has_energy_and_emissions(machine):
    with metered("NLD") as meter:
        compute(0.06)
    assert meter.cost.seconds >= 0.06
    assert meter.cost.energy_kwh > 0 and meter.cost.co2_kg > 0


@pytest.mark.parametrize("country", ["NLD", "FRA", "POL"])
def test_co2_is_the_energy_times_the_carbon_intensity_of_the_country(machine, country):
    table = Path(importlib.import_module("codecarbon").__file__).parent / "data/private_infra/global_energy_mix.json"
    grams_per_kwh = json.loads(table.read_text())[country]["carbon_intensity"]
    with metered(country) as meter:
        compute(0.06)
    assert meter.cost.co2_kg == pytest.approx(meter.cost.energy_kwh * grams_per_kwh / 1000)


def test_co2_in_the_world_is_the_energy_times_the_worlds_average_intensity(machine):
    table = Path(importlib.import_module("codecarbon").__file__).parent
    sources = json.loads((table / "data/private_infra/carbon_intensity_per_source.json").read_text())
    with metered("world") as meter:
        compute(0.06)
    assert meter.cost.energy_kwh > 0
    assert meter.cost.co2_kg == pytest.approx(meter.cost.energy_kwh * sources["world_average"] / 1000)


@pytest.mark.parametrize("interval", [15.0, 0.1])
def test_energy_is_power_times_time_however_often_it_is_read(machine, interval):
    least = 0.8 if interval > 1 else 0.5  # the time that a reading takes is not counted
    machine.setattr(cost, "INTERVAL", interval)
    machine.setenv(POWER_OF_CPU, NOTHING)
    machine.setenv(POWER_OF_RAM, "3600")  # a thousandth of a kWh per second
    with metered("NLD") as meter:
        time.sleep(0.3)
    assert least < meter.cost.energy_kwh * 1000 / meter.cost.seconds < 1.5
    machine.setenv(POWER_OF_RAM, NOTHING)
    machine.setenv(POWER_OF_CPU, str(3600 * os.cpu_count()))  # and per second of one core
    with metered("NLD") as meter:
        began = time.process_time()
        compute(0.3)
        used = time.process_time() - began
    assert least < meter.cost.energy_kwh * 1000 / used < 1.2


def test_a_process_that_waits_draws_nothing_from_the_processor_whatever_else_runs(machine):
    machine.setenv(POWER_OF_RAM, NOTHING)
    with metered("NLD") as meter:
        time.sleep(0.3)
    idle = 0.1 * 15 * meter.cost.seconds / 3.6e6  # what codecarbon takes an idle machine of 15 W to draw
    assert meter.cost.energy_kwh < idle / 2


def test_without_counters_it_says_that_power_is_estimated_from_the_processors_rated_power(machine):
    with metered("NLD") as meter:
        pass
    assert "estimated" in meter.cost.how
    assert "15 W, its rating (Intel(R) Core(TM) i7-8650U" in meter.cost.how
    assert finite(meter.cost)


def test_energy_of_the_processors_counters_is_taken_as_it_is_and_said_to_be_measured(machine):
    class Counters:
        def __init__(self, **_):
            self.left = [2e-6, 5e-6]

        def start(self):
            pass

        def get_cpu_details(self, _):
            return {"Processor Energy Delta_0(kWh)": self.left.pop(0) if self.left else 0.0}

        def get_static_cpu_details(self):
            return {"Processor Power_0(W)": 10.0}

    machine.setattr("codecarbon.core.cpu.is_rapl_available", lambda *_: True)
    machine.setattr("codecarbon.external.hardware.IntelRAPL", Counters)
    machine.setenv(POWER_OF_RAM, NOTHING)
    with metered("NLD") as meter:
        time.sleep(0.06)
    assert meter.cost.energy_kwh == pytest.approx(7e-6)
    assert "measured by its counters (RAPL)" in meter.cost.how


def test_metering_is_offline_silent_and_writes_nothing_whatever_codecarbons_settings_say(machine, tmp_path, capfd):
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\nsave_to_api=true\nsave_to_file=true\noutput_methods=csv,api\napi_key=k\nemissions_endpoint="
        "http://localhost:1\nelectricitymaps_api_token=t\nco2_signal_api_token=t\nlog_level=debug\noutput_dir=/nowhere\n"
        "country_iso_code=AUS\nregion=ohio\ncloud_provider=gcp\ncloud_region=us-east1\ntracking_mode=machine\n"
        "force_carbon_intensity_g_co2e_kwh=9\nallow_multiple_runs=false\n"
    )
    reached = []

    def refuse(*target, **_):
        reached.append(target)
        raise OSError("no network here")

    for name in ("connect", "connect_ex", "sendto"):
        machine.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        machine.setattr(socket, name, refuse)
    with metered("NLD") as meter:
        compute(0.06)
    assert finite(meter.cost)
    assert meter.cost.co2_kg / meter.cost.energy_kwh == pytest.approx(0.2676, rel=0.2)
    assert reached == []
    assert [p.name for p in tmp_path.rglob("*")] == [".codecarbon.config"]
    assert capfd.readouterr() == ("", "")


def test_blocks_in_several_threads_are_metered_side_by_side(machine, capfd):
    costs = []

    def block():
        with metered("NLD") as meter:
            compute(0.05)
        costs.append(meter.cost)

    threads = [threading.Thread(target=block) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(costs) == 3
    assert all(finite(measured) for measured in costs)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_block_that_ends_with_an_error_is_metered_and_its_error_passes_through(machine, error):
    with pytest.raises(error, match="mine"), metered("NLD") as meter:
        raise error("mine")
    assert finite(meter.cost)


def test_an_interruption_while_metering_starts_leaves_no_thread_behind(machine):
    tracker = importlib.import_module("codecarbon").OfflineEmissionsTracker
    start = tracker.start

    def interrupted(self):
        start(self)
        raise KeyboardInterrupt

    machine.setattr(tracker, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), metered("NLD"):
        pytest.fail("the block must not run")


def broken(*_, **__):
    raise RuntimeError("no sensor")


@pytest.mark.parametrize(
    "what",
    [
        "codecarbon.core.resource_tracker.ResourceTracker.set_RAM_tracking",  # at the start
        "codecarbon.core.resource_tracker.ResourceTracker.set_GPU_tracking",  # in a thread of codecarbon's
        "codecarbon.external.ram.RAM.total_power",  # at the first reading
        "codecarbon.emissions_tracker.BaseEmissionsTracker._prepare_emissions_data",  # at the end
        "codecarbon.emissions_tracker.get_hierarchical_config",  # while it is made
        "codecarbon.OfflineEmissionsTracker",
    ],
)
def test_what_goes_wrong_with_metering_is_told_and_the_block_never_sees_it(machine, capfd, what):
    machine.setattr(what, broken)
    done = []
    with metered("NLD") as meter:
        done.append(True)
    assert done
    assert unknown(meter.cost)
    assert meter.cost.seconds >= 0
    assert meter.cost.how == "not measured: RuntimeError: no sensor"
    assert capfd.readouterr() == ("", "")


def test_a_gpu_that_does_not_tell_what_it_draws_makes_the_energy_unknown(machine):
    class GPU:
        devices = type("Devices", (), {"get_gpu_utilization_list": lambda _: []})()

        def start(self):
            pass

        def measure_power_and_energy(self, last_duration):
            units = importlib.import_module("codecarbon.core.units")
            return units.Power(0.0), units.Energy(0.0)

    start = importlib.import_module("codecarbon").OfflineEmissionsTracker.start

    def start_with_gpu(self):
        start(self)
        self._hardware.append(GPU())

    machine.setattr("codecarbon.OfflineEmissionsTracker.start", start_with_gpu)
    machine.setattr(cost.time, "perf_counter", lambda clock=time.perf_counter: 20 * clock())
    with metered("NLD") as meter:
        time.sleep(0.06)
    assert meter.cost.seconds >= 1
    assert unknown(meter.cost)
    assert "GPU" in meter.cost.how


def test_without_codecarbon_a_block_runs_and_its_cost_says_why_it_is_unknown(machine):
    machine.setitem(sys.modules, "codecarbon", None)
    with metered("NLD") as meter:
        pass
    assert unknown(meter.cost)
    assert "codecarbon" in meter.cost.how


def test_a_reading_that_fails_in_between_says_nothing_and_the_next_one_makes_up_for_it(machine, capfd):
    machine.setattr(cost, "INTERVAL", 0.02)
    machine.setenv(POWER_OF_RAM, "3600")
    machine.setenv(POWER_OF_CPU, NOTHING)
    ram = importlib.import_module("codecarbon.external.ram").RAM
    total_power, failed, died = ram.total_power, [], []

    def fails_in_between(self):
        if threading.current_thread() is not threading.main_thread():
            failed.append(True)
            raise OSError("busy")
        return total_power(self)

    machine.setattr(ram, "total_power", fails_in_between)
    machine.setattr(threading, "excepthook", died.append)
    with metered("NLD") as meter:
        time.sleep(0.3)
    assert failed
    assert not died
    assert meter.cost.energy_kwh * 1000 == pytest.approx(
        meter.cost.seconds, rel=0.5
    )  # a busy machine is late; without them it is under a tenth
    assert capfd.readouterr() == ("", "")


def test_a_meter_says_that_its_block_has_not_ended_while_it_runs(machine):
    with metered("NLD") as meter:
        assert unknown(meter.cost)
        assert "not ended" in meter.cost.how


def test_codecarbon_is_imported_only_where_something_is_metered():
    code = "import sys; from cnnsim_tf.run import cost; cost.check_country('NLD'); print('codecarbon' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_the_processors_name_is_the_one_that_py_cpuinfo_finds():
    code = """
import cpuinfo
from cnnsim_tf.run import cost
slow = cpuinfo.get_cpu_info()["brand_raw"]
cost._name_the_processor()
assert cpuinfo.get_cpu_info()["brand_raw"] == slow, slow
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("code", "nearest"),
    [
        *(("nld", "NLD"), ("NL", "NLD"), ("Netherlands", "NLD"), ("Germny", "DEU"), ("GB", "GBR"), ("NLDD", "NLD")),
        *(("World", "world"), ("WRLD", "world")),
    ],
)
def test_an_unknown_country_is_refused_with_the_nearest_known_code(code, nearest):
    with pytest.raises(ParameterError, match=rf"{code}.*three capitals.*did you mean {nearest} \("):
        check_country(code)
    with pytest.raises(ParameterError), metered(code):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("code", ["", "QQQ", "123"])
def test_a_country_like_no_other_is_refused_without_a_guess(code):
    with pytest.raises(ParameterError, match=r"such as NLD, or world$"):
        check_country(code)


@pytest.mark.parametrize("code", ["NLD", "USA", "IND", "ZAF", "world"])
def test_known_countries_pass(code):
    check_country(code)


def test_shares_go_by_computing_time_and_sum_to_the_total():
    parts = shares(TOTAL, {"noising": 10, "subset_training": 150, "similarity": 0, "warmstart": 40})
    for name in ("seconds", *AMOUNTS):
        assert sum(getattr(part, name) for part in parts.values()) == pytest.approx(getattr(TOTAL, name))
    assert parts["subset_training"].energy_kwh == pytest.approx(0.375)
    assert parts["similarity"].co2_kg == 0
    assert parts["noising"].how == "measured by RAPL; split over the steps by computing time"


def test_shares_of_an_unknown_energy_or_of_no_computing_are_unknown():
    assert unknown(shares(dataclasses.replace(TOTAL, **dict.fromkeys(AMOUNTS, math.nan)), {"noising": 1})["noising"])
    assert unknown(shares(TOTAL, {"noising": 0.0})["noising"])
    assert shares(TOTAL, {}) == {}


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_shares_refuse_times_that_are_none(seconds):
    with pytest.raises(ValueError, match="computing times"):
        shares(TOTAL, {"noising": 1.0, "warmstart": seconds})
