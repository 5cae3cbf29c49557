"""Training many CNNs of one architecture at once."""

from cnnsim_tf.training.engine import CURVE_STEPS, Progress, Trained, curve_points, evaluate, train, why_not_fleet

__all__ = ["CURVE_STEPS", "Progress", "Trained", "curve_points", "evaluate", "train", "why_not_fleet"]
