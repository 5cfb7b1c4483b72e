"""Default paths of artefacts: a folder per space, one run, tables."""

from __future__ import annotations

import re
from pathlib import Path

RUN = Path("runs/search")
"""The run that ``search`` writes and ``finetune``, ``export``, ``verify`` and ``report`` read."""
SUPERNET, PREDICTOR = "supernet.safetensors", "predictor.safetensors"


def file_name(text: str) -> str:
    """A name made safe as part of a file name: it cannot lead to another folder."""
    return re.sub(r"[^\w.@+-]+", "_", text)


def home(space: str) -> Path:
    """The folder of a space's supernet, predictor and samples (``fp32`` and ``quantized``).

    Example:
        >>> home("cifar10").as_posix()
        'data/cifar10'
    """
    return Path("data") / file_name(space)


def table_of(space: str, device: str = "bitfusion-apq") -> Path:
    """The table of the costs of a space's layers on a device.

    Example:
        >>> table_of("cifar10").as_posix()
        'lut/bitfusion-apq-cifar10.csv'
    """
    return Path("lut") / f"{device}-{file_name(space)}.csv"
