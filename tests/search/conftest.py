"""Problems the search tests share: a space to enumerate, and APQ's with its published table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from formula import FormulaAccuracy

from apq.hardware.importing import import_apq_json
from apq.hardware.pricing import PricedSpace, price_space
from apq.space import PRESETS, Genes, Space


class FixedPredictor:
    """The MLP of the reference data, in numpy float32."""

    def __init__(self, path: Path, space: Space) -> None:
        raw = np.load(path)
        names = ("layers.0.0", "quantize_fc", "layers.1.0", "layers.2.0", "regressor")
        self.w = {n: raw[f"{n}.weight"].astype(np.float32).T.copy() for n in names}
        self.b = {n: raw[f"{n}.bias"].astype(np.float32) for n in names}
        self.space = space

    def __call__(self, genes: Genes) -> tuple[np.ndarray, np.ndarray]:
        x = self.space.encode(genes)
        split = self.space.architecture_dims
        w, b = self.w, self.b
        h = np.maximum(x[:, :split] @ w["layers.0.0"] + b["layers.0.0"], 0)
        h += x[:, split:] @ w["quantize_fc"] + b["quantize_fc"]
        for name in ("layers.1.0", "layers.2.0"):
            h = np.maximum(h @ w[name] + b[name], 0)
        y = (h @ w["regressor"] + b["regressor"])[:, 0].astype(np.float64)
        return y, np.zeros(len(y))


@pytest.fixture(scope="session")
def tiny_priced(tiny_space: Space) -> PricedSpace:
    return price_space(tiny_space)


@pytest.fixture(scope="session")
def enumerated(tiny_priced: PricedSpace) -> tuple[PricedSpace, Genes, dict[str, np.ndarray]]:
    every = tiny_priced.space.every_candidate()
    return tiny_priced, every, tiny_priced.costs(every)


@pytest.fixture
def tiny_accuracy(tiny_space: Space) -> FormulaAccuracy:
    return FormulaAccuracy(tiny_space)


@pytest.fixture(scope="session")
def apq_priced(shared: Path) -> PricedSpace:
    table = import_apq_json(shared / "reference/apq/bitfusion_b1_lut.json")
    return price_space(PRESETS["apq-imagenet"](), table)


@pytest.fixture(scope="session")
def apq_accuracy(shared: Path) -> FixedPredictor:
    path = shared / "reference/apq/predictor_structured.npz"
    return FixedPredictor(path, PRESETS["apq-imagenet"]())
