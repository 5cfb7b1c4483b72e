"""Accuracy of candidates without running them: an MLP pre-trained on cheap samples (torch)."""

from apq.predictor.predictor import Predictor, load_predictor
from apq.predictor.training import PRESETS, train_predictor

__all__ = ["PRESETS", "Predictor", "load_predictor", "train_predictor"]
