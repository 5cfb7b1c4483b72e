"""Arm's compiler as a cost model: cycles of every model of a folder on an Ethos-U.

Vela compiles a TFLite file for the accelerator and estimates its cycles; nothing is run. It is a
model by the accelerator's maker, not a measurement. Needs the extra ``apq-nas[vela]``.
"""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apq.deploy.timing import fill
from apq.errors import ModelError, choose

ACCELERATORS = (
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256",
    "ethos-u65-512",
)  # fmt: skip
LEAST = 1e-9
"""What a model that costs nothing is said to take, in ms."""


@dataclass(frozen=True)
class Compiled:
    """What Vela says of one model.

    Attributes:
        milliseconds: One inference at the core's clock.
        cycles: The same in cycles.
        sram_kb, flash_kb: Memory that tensors and that the encoded weights and commands take, KiB.
        weight_bytes: Weights as Vela encodes them: fewer levels take fewer bytes.
    """

    milliseconds: float
    cycles: float
    sram_kb: float
    flash_kb: float
    weight_bytes: float


def compile_model(path: Path, accelerator: str = "ethos-u55-128") -> Compiled:
    """Compile a TFLite file for an accelerator, in Vela's default memory mode.

    Raises:
        ModelError: Vela is not installed, does not know the accelerator, or cannot compile.
    """
    choose(accelerator, ACCELERATORS, "accelerator")
    if importlib.util.find_spec("ethosu") is None:
        raise ModelError("this needs Arm's compiler: pip install 'apq-nas[vela]'")
    with tempfile.TemporaryDirectory() as folder:
        asked = ["--accelerator-config", accelerator, "--output-dir", folder]
        ran = subprocess.run(  # of its own: what Vela cannot compile may end the process
            [sys.executable, "-m", "ethosu.vela", str(path), *asked],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = (ran.stderr or ran.stdout).strip()[-300:] if ran.returncode >= 0 else "it crashed"
        if ran.returncode:
            raise ModelError(
                f"Vela cannot compile {path} (exit code {ran.returncode}): {said}. "
                "It takes no weights of 4 bits: apq export --format tflite --whole-bytes"
            )
        found = sorted(Path(folder).glob("*summary*.csv"))
        if not found:
            raise ModelError(f"Vela wrote no summary of {path}: {said}")
        with found[0].open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
    flash = float(row["on_chip_flash_memory_used"]) + float(row["off_chip_flash_memory_used"])
    return Compiled(
        float(row["inference_time"]) * 1e3, float(row["cycles_total"]),
        float(row["sram_memory_used"]), flash, float(row["total_npu_encoded_weights"]),
    )  # fmt: skip


def compile_folder(
    folder: Path,
    accelerator: str,
    on_progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> None:
    """Compile every model of ``models/`` that timings.csv lacks; one round, it has no noise."""

    def measure(model: Path) -> float:
        return max(compile_model(model, accelerator).milliseconds, LEAST)

    fill(folder, 1, measure, on_progress)
