"""What making something cost: time on the wall, time of processors, on what."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

Cost = Mapping[str, Any]
"""``wall_s`` and ``cpu_s``, seconds; ``device``."""


def cores() -> str:
    """The processor as costs name it: by the cores this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {count} cores"


class Stopwatch:
    """Measures this process from now on, on top of what was spent before.

    Args:
        spent: The cost so far of something that is continued.
        device: What works; by default the processor.
    """

    def __init__(self, spent: Cost | None = None, device: str | None = None) -> None:
        self._device = device or cores()
        self._wall, self._cpu = time.monotonic(), time.process_time()
        if spent is not None:
            self._wall -= spent["wall_s"]
            self._cpu -= spent["cpu_s"]

    def cost(self) -> dict[str, Any]:
        """The cost until now."""
        return {
            "wall_s": round(time.monotonic() - self._wall, 2),
            "cpu_s": round(time.process_time() - self._cpu, 2),
            "device": self._device,
        }


def told(cost: Cost) -> str:
    """A cost in words."""
    return f"{cost['wall_s']:,.1f} s, {cost['cpu_s']:,.1f} s of processor ({cost['device']})"
