"""What a study costs in energy and CO2."""

import contextlib
import difflib
import importlib.util
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from cnnsim_tf.errors import ParameterError

K = TypeVar("K", bound=str)
NAN = float("nan")
POWER_PER_THREAD = 4  # W, codecarbon's assumption where its table of ratings does not have the processor
WORLD = "world"  # the average of all countries
INTERVAL = 15.0  # seconds between readings of energy counters, which overflow after some minutes at full load


@dataclass(frozen=True)
class Cost:
    """Energy and emissions of something computed; all but the seconds are NaN where they could not be had."""

    seconds: float
    energy_kwh: float
    co2_kg: float  # of CO2 equivalents
    how: str  # a sentence: how the power was obtained, or why it was not


@dataclass
class Meter:
    """Holds the cost of a metered block once the block has ended, however it ended."""

    cost: Cost = field(default_factory=lambda: _unmeasured(NAN, "the metered computation has not ended yet"))


@contextmanager
def metered(country: str) -> Iterator[Meter]:
    """Meter the energy and emissions of a block with codecarbon: offline, silent, without files.

    Counted are this process and its children (docs/method.md, "Cost"), so that blocks which overlap in one process
    count the same energy twice. What goes wrong with metering never reaches the block: the cost is then NaN and says
    why.

    Args:
        country: where the electricity comes from, an ISO 3166-1 alpha-3 code such as NLD, or `world` for the average.

    Raises:
        ParameterError: codecarbon does not know the country.
    """
    check_country(country)
    meter, tracker, reason = Meter(), None, ""
    _QUIET.forget()
    try:
        tracker = _tracker(country)
        tracker.start()
        reason = _QUIET.reason()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    except BaseException:
        _stop_readings(tracker)
        raise
    began = time.perf_counter()
    try:
        yield meter
    finally:
        seconds = time.perf_counter() - began
        try:
            _stop_readings(tracker)
            meter.cost = _unmeasured(seconds, reason) if reason else _cost(tracker, seconds)
        except Exception as error:
            meter.cost = _unmeasured(seconds, _QUIET.reason() or f"{type(error).__name__}: {error}")


def check_country(code: str) -> None:
    """Refuse a country whose electricity codecarbon's table does not have.

    Raises:
        ParameterError: it is neither `world` nor one of the table's ISO 3166-1 alpha-3 codes, in capitals.
    """
    known = _countries()
    if code in (WORLD, *known) or not known:
        return
    number, known = len(known), {**known, WORLD: "the average of all countries"}
    text = code.casefold()
    names = {k.casefold(): k for k in known} | {name.casefold(): k for k, name in known.items()}
    begins = [k for k in known if text and k.casefold().startswith(text)]
    near = begins if len(begins) == 1 else [names[n] for n in difflib.get_close_matches(text, names, n=1)]
    hint = f"; did you mean {near[0]} ({known[near[0]]})?" if near else ""
    raise ParameterError(
        f"country is {code!r}: it must be one of the {number} countries that codecarbon knows, by its code of "
        f"three capitals (ISO 3166-1 alpha-3) such as NLD, or {WORLD}{hint}"
    )


def shares(total: Cost, seconds: Mapping[K, float]) -> dict[K, Cost]:
    """Split a cost over steps by the time that each computed; the parts sum to the total.

    Args:
        total: the cost of all steps.
        seconds: computing time per step, at least 0 each; of repeats side by side the sum may exceed the total's.

    Returns:
        The steps' costs; NaN throughout where no step computed anything.

    Raises:
        ValueError: a time is negative or not finite.
    """
    if not all(math.isfinite(s) and s >= 0 for s in seconds.values()):
        raise ValueError(f"computing times must be finite and at least 0: {dict(seconds)}")
    whole = sum(seconds.values())
    how = f"{total.how}; split over the steps by computing time"

    def part(weight: float) -> Cost:
        amounts = {name: value * weight for name, value in vars(total).items() if name != "how"}
        return Cost(**amounts, how=how)

    return {step: part(own / whole if whole else NAN) for step, own in seconds.items()}


@cache
def _countries() -> dict[str, str]:
    """Return the countries of codecarbon's table by code; none where it cannot be read, which metering then says."""
    try:
        return {code: entry["country_name"] for code, entry in _data("global_energy_mix").items()}
    except (OSError, ValueError, KeyError):
        return {}


def _data(name: str) -> dict[str, Any]:
    """Return one of codecarbon's tables without importing it."""
    spec = importlib.util.find_spec("codecarbon")
    folder = Path((spec and spec.origin) or "").parent
    return json.loads((folder / f"data/private_infra/{name}.json").read_text(encoding="utf-8"))


class _Quiet(logging.Filter):
    """Lets no line of codecarbon's log through, and keeps the error that codecarbon suppressed, per thread."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        # Around what else it logs with a traceback it finds a way. The first error leads to the others.
        if record.funcName == "suppress" and record.exc_info and not self.reason():
            error = record.exc_info[1]
            self._thread.reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return False

    def forget(self) -> None:
        self._thread.reason = ""

    def reason(self) -> str:
        return getattr(self._thread, "reason", "")


_QUIET = _Quiet()


def _tracker(country: str) -> Any:
    """Return codecarbon's offline tracker, not started.

    Every setting that could reach the network, write, or move the study to another country is given: what is left out
    codecarbon would take from its configuration file or the environment, as it shall for the rated powers.
    """
    logging.getLogger("codecarbon").addFilter(_QUIET)  # before the import, which talks already
    from codecarbon import OfflineEmissionsTracker  # heavy: only what is metered pays for it

    _name_the_processor()
    tracker = OfflineEmissionsTracker(
        country_iso_code=next(iter(_countries())) if country == WORLD else country,
        **dict.fromkeys(("region", "cloud_provider", "cloud_region", "country_2letter_iso_code", "emissions_endpoint")),
        force_carbon_intensity_g_co2e_kwh=_data("carbon_intensity_per_source")["world_average"]
        if country == WORLD
        else None,
        electricitymaps_api_token="",  # None would let an older setting's token in
        output_methods=[],
        output_handlers=[],
        output_dir=".",
        measure_power_secs=INTERVAL,
        tracking_mode="process",
        allow_multiple_runs=True,  # no lock file
        log_level="warning",  # which is where it says what it stumbled over
    )
    for scheduler in _schedulers(tracker):
        scheduler.function = _Reading(scheduler.function)
    return tracker


def _name_the_processor() -> None:
    """Give codecarbon the processor's name as the Linux kernel has it: py-cpuinfo takes a second to find the same."""
    import cpuinfo

    with contextlib.suppress(OSError):
        if named := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            cpuinfo.get_cpu_info = lambda: {"brand_raw": named[1]}


def _schedulers(tracker: Any) -> list[Any]:
    """Return what takes the tracker's readings; codecarbon has no public name for it."""
    both = (getattr(tracker, "_scheduler", None), getattr(tracker, "_scheduler_monitor_power", None))
    return [scheduler for scheduler in both if scheduler]


class _Reading:
    """A reading, one at a time, without its errors: they would end its thread with a traceback on the terminal."""

    def __init__(self, read: Callable[[], None]) -> None:
        self.read = read
        self.lock = threading.Lock()

    def __call__(self) -> None:
        if self.lock.acquire(blocking=False):
            with contextlib.suppress(Exception):
                self.read()
            self.lock.release()


def _stop_readings(tracker: Any) -> None:
    """Stop the threads that take readings; wait for a reading in progress and for one about to time its successor."""
    for scheduler in _schedulers(tracker):
        timer = scheduler._timer
        scheduler.stop()
        if timer:
            timer.join(timeout=5)
        scheduler.stop()
        if scheduler.function.lock.acquire(timeout=5):
            scheduler.function.lock.release()


def _cost(tracker: Any, seconds: float) -> Cost:
    """Stop a tracker and return what it counted."""
    tracker.stop()
    data = tracker.final_emissions_data  # missing where codecarbon stumbled, which it only logs
    if any(type(h).__name__ == "GPU" for h in tracker._hardware) and seconds >= 1 and not data.gpu_energy > 0:
        return _unmeasured(seconds, "there is a GPU, but its driver does not tell what it draws")
    return Cost(
        seconds,
        energy_kwh=float(data.energy_consumed),
        co2_kg=float(data.emissions),
        how=_how(tracker),
    )


def _unmeasured(seconds: float, reason: str) -> Cost:
    return Cost(seconds, NAN, NAN, how=f"not measured: {reason}")


def _how(tracker: Any) -> str:
    """Return how a tracker obtained the power of processor, memory and GPU."""
    kinds = {type(hardware).__name__: hardware for hardware in tracker._hardware}
    cpu = kinds.get("CPU")
    if cpu is None:
        processor = "processor measured by the machine's own sensors, whatever ran on it"
    elif cpu._mode == "intel_rapl":
        processor = "processor measured by its counters (RAPL), whatever ran on it"
    elif cpu._mode == "cpu_load":
        guessed = cpu._tdp == POWER_PER_THREAD * (os.cpu_count() or 1)
        power = (
            f"{POWER_PER_THREAD} W per thread, assumed for want of a rating"
            if guessed
            else f"{cpu._tdp:g} W, its rating"
        )
        processor = f"processor estimated as this process's share of {power} ({cpu._model})"
    else:
        processor = f"processor measured ({cpu._mode.replace('_', ' ')}), whatever ran on it"
    model = tracker.get_detected_hardware()["gpu_model"]
    gpu = f"GPU measured by its driver ({model}), whatever ran on it" if "GPU" in kinds else "no GPU seen"
    return f"{processor}; memory estimated from what the process uses; {gpu}"
