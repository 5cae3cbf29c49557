"""Keras models that others stored, read without running anything that came with them."""

from cnnsim_tf.stored_models.formats import read_model
from cnnsim_tf.stored_models.networks import PIXELS, Networks, networks_of
