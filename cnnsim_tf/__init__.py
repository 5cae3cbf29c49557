"""What of a trained CNN can be kept: similar convolutional filters as a warm start, tracked with MLflow."""

from cnnsim_tf import process

__version__ = "0.1.0"

process.set_environment()  # before anything imports TensorFlow, Keras or MLflow
