"""Predict a file of candidates, and compare with its measurements if it has any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from apq.predictor.columns import TableFeatures, read_table
from apq.predictor.metrics import Scores, score
from apq.predictor.predictor import Predictor
from apq.samples import read_samples


def score_file(
    predictor: Predictor, path: Path | str, *, seed: int = 0
) -> tuple[pd.DataFrame, Scores | None]:
    """Predict every row of a file.

    Args:
        predictor: Trained on samples of a space, or on a table.
        path: Samples of the same space, or a table with the same columns.
        seed: Random seed of the bootstrap interval.

    Returns:
        The rows with the columns ``predicted`` and ``spread`` added, in the unit of the
        measurements; and the agreement with the measurements (as fractions), if there are any.

    Raises:
        SamplesError: the file cannot be read or lacks a column.
        SpaceError: it holds candidates of another space.
    """
    features = predictor.features
    if isinstance(features, TableFeatures):
        columns = features.columns
        frame = read_table(path, columns, target=False)
        mean, spread = predictor.predict(frame)
        unit, name = columns.unit, columns.target
    else:
        samples = read_samples(path, predictor.space)
        frame, unit, name = samples.frame, 1.0, "accuracy"
        mean, spread = predictor.predict(samples.genes)
    scored = frame.assign(predicted=mean / unit, spread=spread / unit)
    if name not in frame.columns:
        return scored, None
    truth = frame[name].to_numpy(np.float64) * unit
    known = np.isfinite(truth)
    return scored, score(mean[known], truth[known], seed=seed) if known.sum() > 1 else None
