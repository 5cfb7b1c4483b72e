"""Accuracy predictors: few samples, transfer from fp32, and calibrated uncertainty (torch)."""

from apq.predictor.baselines import BASELINES
from apq.predictor.columns import COLUMNS, Columns, load_columns, read_table
from apq.predictor.predictor import Predictor, load_predictor
from apq.predictor.training import PRESETS, train_on_table, train_predictor

__all__ = [
    "BASELINES", "COLUMNS", "PRESETS", "Columns", "Predictor", "load_columns", "load_predictor",
    "read_table", "train_on_table", "train_predictor",
]  # fmt: skip
