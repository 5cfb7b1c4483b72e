"""One training loop for the supernet, for samples' short tunings and for the winner's final one."""

from apq.training.devices import autocast, describe, find_device
from apq.training.loop import OnProgress, Training, sgd

__all__ = ["OnProgress", "Training", "autocast", "describe", "find_device", "sgd"]
