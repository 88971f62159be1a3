"""Trackers of rows: TensorBoard, Weights & Biases and MLflow, each in one file, and the thread in which they are called."""

from genrec.trackers.mlflow_tracker import MLflow
from genrec.trackers.tensorboard_tracker import TensorBoard
from genrec.trackers.tracking_thread import TrackingThread
from genrec.trackers.wandb_tracker import WandB

__all__ = ["MLflow", "TensorBoard", "TrackingThread", "WandB"]
