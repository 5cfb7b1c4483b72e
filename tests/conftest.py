"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

# tests run in as many processes as there are cores (pyproject.toml); threads would only wait
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

from apq.space import BitChoices, MobileNetV2, Space, Stage


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference data measured on other systems; it lies beside the repository."""
    folder = Path(os.environ.get("APQ_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"reference data not found at {folder} (a clone alone does not have it)")
    return folder


@pytest.fixture(scope="session")
def tiny_space() -> Space:
    """A space of a few thousand candidates, small enough to enumerate."""
    return Space(
        MobileNetV2(
            name="tiny",
            resolution=8,
            in_channels=1,
            classes=10,
            stem_channels=8,
            first_channels=8,
            head_channels=16,
            stages=(
                Stage(8, 1, depth=(1, 2), kernel=(3, 5), expand=(2, 3), width_step=8),
                Stage(16, 2, depth=(1,), kernel=(3,), expand=(2, 4), width_step=8),
            ),
            bits=BitChoices((4, 8), (8,), (4, 8), (4, 8)),
            exclude=({"kernel": 5, "dw_a_bits": 4},),
        )
    )
