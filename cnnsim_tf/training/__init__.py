"""Training many CNNs of one architecture at once."""

from cnnsim_tf.training.engine import (
    CURVE_STEPS,
    EngineName,
    Progress,
    Trained,
    check_engine,
    curve_points,
    evaluate,
    train,
)
from cnnsim_tf.training.fleet_engine import why_not_fleet

__all__ = [
    "CURVE_STEPS",
    "EngineName",
    "Progress",
    "Trained",
    "check_engine",
    "curve_points",
    "evaluate",
    "train",
    "why_not_fleet",
]
