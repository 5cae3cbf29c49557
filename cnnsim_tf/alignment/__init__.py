"""Alignment: filters and whole networks of several donors brought to the same positions."""

from cnnsim_tf.alignment.filters import match_filters
from cnnsim_tf.alignment.network import RESTARTS, Aligned, Hidden, align_network

__all__ = ["RESTARTS", "Aligned", "Hidden", "align_network", "match_filters"]
