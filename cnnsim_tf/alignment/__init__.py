"""Alignment: filters and whole networks of several donors brought to the same positions."""

from cnnsim_tf.alignment.filters import match_filters
from cnnsim_tf.alignment.network import Aligned, Hidden, align_network
