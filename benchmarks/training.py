"""How fast the engines train and evaluate the reference CNN: `python -m benchmarks.training`."""

import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from tabulate import tabulate

import cnnsim_tf
from cnnsim_tf.cnn import fresh_weights, reference_cnn
from cnnsim_tf.device import configure
from cnnsim_tf.training.fleet_engine import FleetEngine
from cnnsim_tf.training.keras_engine import KerasEngine

N, RUNS, BATCH, RATE = 10_000, 3, 64, 1e-3
STEPS = -(-N // BATCH)


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def fit(images: np.ndarray, labels: np.ndarray, **options: int) -> Callable[[], object]:
    """Return a function that trains one model for an epoch with Keras's fit."""
    model = reference_cnn(28, 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], **options)
    return lambda: model.fit(images[..., None], labels, BATCH, verbose=0)


def engine_calls(engine: KerasEngine | FleetEngine, count: int, images: np.ndarray, labels: np.ndarray) -> tuple:
    """Return functions that train `count` models for an epoch, and that evaluate them; and those for one image each."""
    each = [fresh_weights("reference", 28, 10, seed) for seed in range(count)]
    engine.start([np.stack(w) for w in zip(*each, strict=True)])
    data = engine.put([images], [labels])
    order = engine.put_order(np.stack([np.random.default_rng(m).permutation(N) for m in range(count)]))
    train = (lambda: engine.run(data, order, 0, STEPS)), (lambda: engine.run(data, order, 0, 1))
    return *train, lambda: engine.evaluate(images, labels), lambda: engine.evaluate(images[:1], labels[:1])


def main() -> None:
    """Print images per second, interleaved and as medians, and what compiling costs."""
    device = configure("auto")
    with np.load(Path(cnnsim_tf.__file__).parent / "data" / "mnist.npz") as mnist:
        images = mnist["x_train"][:N].astype(np.float32) / np.float32(127.5) - 1
        labels = mnist["y_train"][:N].astype(np.int32)
    cores = os.cpu_count() or 1
    arguments = ("reference", 28, 10)
    engines: list[tuple[str, int, KerasEngine | FleetEngine]] = [
        ("fleet engine, 1 thread", 1, FleetEngine(*arguments, 1, BATCH, RATE, threads=1)),
        (f"fleet engine, {cores} threads", 2 * cores, FleetEngine(*arguments, 2 * cores, BATCH, RATE)),
        ("Keras engine", 2 * cores, KerasEngine(*arguments, 2 * cores, BATCH, RATE)),
    ]
    calls: dict[tuple[str, str], tuple[int, Callable[[], object]]] = {
        ("model.fit", "train"): (1, fit(images, labels)),
        ("model.fit, steps_per_execution=50", "train"): (1, fit(images, labels, steps_per_execution=50)),
    }
    first = {}
    for name, count, engine in engines:
        train, train_one, evaluate, evaluate_one = engine_calls(engine, count, images, labels)
        first[name, "train"], first[name, "evaluate"] = seconds(train_one), seconds(evaluate_one)
        calls[name, "train"], calls[name, "evaluate"] = (count, train), (count, evaluate)
    for _, call in calls.values():
        call()  # warm
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(RUNS):
        for key, (_, call) in calls.items():
            taken[key].append(seconds(call))
    rows = [
        (name, what, count, count * N / statistics.median(taken[name, what]), first.get((name, what)))
        for (name, what), (count, _) in calls.items()
    ]
    headers = ("", "task", "models", "images/s", "first call (s)")
    print(f"{device.name}, load {os.getloadavg()[0]:.1f}; the first call of the fleet engine compiles for all engines")
    print(tabulate(rows, headers, floatfmt=(None, None, None, ",.0f", ".1f")))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:,.0f} MiB")


if __name__ == "__main__":
    main()
