"""What of a trained CNN can be kept: similar convolutional filters as a warm start, tracked with MLflow."""

import os

__version__ = "0.1.0"

# TensorFlow reads this once, when it is first imported (mlflow.tensorflow imports it too): 3 keeps its start-up
# notes about CUDA and CPU instructions off the user's terminal. Real errors still arrive as Python exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# MLflow reads these when it is imported; its notes and progress bars would tear the study's own apart.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
