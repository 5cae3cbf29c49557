"""Training many CNNs of one architecture at once."""

from cnnsim_tf.training.engine import Trained, check_engine, compile_ahead, curve_points, evaluate, train
from cnnsim_tf.training.fleet_engine import why_not_fleet
