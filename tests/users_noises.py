"""Noises as users write them, in a module that another process imports quickly: each first call is made there too."""

import numpy as np


def darkened_in_place(images, level, rng):
    images -= level
    return images


def of_the_global_generator(images, level, rng):
    return images + np.random.normal(size=images.shape)
