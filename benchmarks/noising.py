"""How long the six noises take: `python -m benchmarks.noising`."""

import statistics
import time
from pathlib import Path

import numpy as np

import cnnsim_tf
from cnnsim_tf import noise
from cnnsim_tf.device import configure

N, RUNS = 10_000, 5


def seconds(name: str, images: np.ndarray) -> float:
    """Return the median time that a noise takes for these images, once warm."""
    times = []
    for run in range(RUNS + 1):
        rng = np.random.default_rng(run)
        start = time.perf_counter()
        noise.apply(name, images, 1.0, rng)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Print the seconds of every noise and of all six."""
    configure("auto")  # threads as in a study; the noises run on the CPU in any case
    with np.load(Path(cnnsim_tf.__file__).parent / "data" / "mnist.npz") as mnist:
        images = mnist["x_train"][:N].astype(np.float32) / np.float32(127.5) - 1
    total = 0.0
    for name in noise.NOISES:
        total += (taken := seconds(name, images))
        print(f"{name:12} {taken:6.3f} s for {N:,} images")
    print(f"{'all six':12} {total:6.3f} s for {6 * N:,} images")


if __name__ == "__main__":
    main()
