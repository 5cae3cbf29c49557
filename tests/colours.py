"""Colour images made of MNIST's: red, green and blue show different digits."""

from functools import cache

import numpy as np

from cnnsim_tf.datasets import load


@cache
def colour_digits(train: int, test: int, side: int = 28) -> dict[str, np.ndarray]:
    """Return a data set by the names of Keras's arrays, of the labels of what red shows; its border may be cut off."""
    mnist, cut = load("mnist"), slice((28 - side) // 2, (28 + side) // 2)
    made = {}
    for part, count in (("train", train), ("test", test)):
        grey = getattr(mnist, f"x_{part}")[: 3 * count, cut, cut]
        made[f"x_{part}"] = np.stack([grey[:count], grey[count : 2 * count] // 2, 255 - grey[2 * count :]], 3)
        made[f"y_{part}"] = getattr(mnist, f"y_{part}")[:count].copy()
    return made
