"""What making something costs: times as they are measured, and what follows from stated rates.

Files carry what was measured (seconds, on what). Energy, CO2e and prices depend on where it ran and
who sells it; they are computed when someone asks, from :class:`Rates` that are printed beside them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apq.workers import available_cores

Cost = Mapping[str, Any]
"""``wall_s``, ``cpu_s``, ``device``, and ``accelerators`` (seconds by kind), absent if none."""

CORE = "CPU core"
"""The kind of device that processor seconds are of."""


def cores() -> str:
    """The processor as costs name it: by the cores this process may use."""
    return f"CPU, {available_cores()} cores"


class Stopwatch:
    """Measures this process from now on, on top of what was spent before.

    Args:
        spent: The cost so far of something that is continued.
        device: What works; by default the processor. Any other counts for the whole time on the
            wall, busy or not: whoever rents it pays for it.
        processes: How many processes like this one, with a device each, work together.
    """

    def __init__(
        self, spent: Cost | None = None, device: str | None = None, processes: int = 1
    ) -> None:
        self._device, self._processes = device or cores(), processes
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._spent = spent or {"wall_s": 0.0, "cpu_s": 0.0}

    def cost(self) -> dict[str, Any]:
        """The cost until now."""
        wall, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        held = dict(self._spent.get("accelerators") or {})
        if self._device != cores():
            held[self._device] = held.get(self._device, 0.0) + wall * self._processes
        return {
            "wall_s": round(self._spent["wall_s"] + wall, 2),
            "cpu_s": round(self._spent["cpu_s"] + cpu * self._processes, 2),
            "device": self._device,
            **({"accelerators": {k: round(v, 2) for k, v in held.items()}} if held else {}),
        }


def told(cost: Cost) -> str:
    """A cost in words."""
    return f"{cost['wall_s']:,.1f} s, {cost['cpu_s']:,.1f} s of processor ({cost['device']})"


def device_hours(cost: Cost) -> dict[str, float]:
    """Hours by kind of device: busy processor cores, and accelerators while they were held.

    Example:
        >>> device_hours({"wall_s": 3600, "cpu_s": 7200, "device": "CPU, 2 cores"})
        {'CPU core': 2.0}
    """
    accelerators = cost.get("accelerators") or {}
    seconds = {CORE: cost["cpu_s"], **accelerators}
    return {kind: value / 3600 for kind, value in seconds.items()}


def summed(costs: Iterable[Cost]) -> dict[str, Any] | None:
    """The sum of costs; None if there are none. ``device`` names every one there is."""
    known = list(costs)
    if not known:
        return None
    held: dict[str, float] = {}
    for cost in known:
        for kind, value in (cost.get("accelerators") or {}).items():
            held[kind] = held.get(kind, 0.0) + value
    return {
        "wall_s": sum(cost["wall_s"] for cost in known),
        "cpu_s": sum(cost["cpu_s"] for cost in known),
        "device": "; ".join(dict.fromkeys(cost["device"] for cost in known)),
        **({"accelerators": held} if held else {}),
    }


# ---- what follows from stated rates --------------------------------------------------------------

POUNDS_PER_KG = 1 / 0.45359237

WATTS: Mapping[str, float] = {
    CORE: 5.0, "H200": 700.0, "H100": 700.0, "A100": 400.0, "V100": 300.0, "L40": 300.0,
    "A10": 150.0, "L4": 72.0, "T4": 70.0, "4090": 450.0, "3090": 350.0, "": 300.0,
}  # fmt: skip
"""Power in W while in use, by a part of the device's name (the longest that fits; ``""`` is any
other accelerator). Accelerators: the power limit on their makers' data sheets, which is an upper
bound. A core: a server processor of 280 W with 64 of them, and as much memory as goes with it
(ours)."""

USD_PER_HOUR: Mapping[str, tuple[float, float]] = {
    CORE: (0.01, 0.05), "H200": (2.5, 10.0), "H100": (2.0, 8.0), "A100": (1.1, 4.1),
    "V100": (0.74, 2.48), "L40": (0.8, 1.9), "A10": (0.4, 1.2), "L4": (0.25, 0.8),
    "T4": (0.11, 0.35), "": (0.5, 5.0),
}  # fmt: skip
"""US dollars for an hour, interruptible and on demand, by a part of the device's name. The V100's
are those behind APQ's table; the others are the order of what large clouds ask (ours): for a
figure that counts, give your own."""


@dataclass(frozen=True)
class Rates:
    """What energy, CO2e and prices are computed with. All can be overridden.

    Attributes:
        watts: Power in W, by a part of the device's name.
        usd_per_hour: Lowest and highest price, by a part of the device's name.
        pue: Energy of the data centre over that of its devices; 1.58 is the world's mean in
            Strubell et al. (ACL 2019, arXiv:1906.02243).
        kg_per_kwh: CO2e of electricity; 0.954 lb is the United States' mean there.

    Example:
        >>> rates = Rates(kg_per_kwh=0.05)  # a grid of water and wind
        >>> round(rates.of({"CPU core": 100.0}).kwh, 3)
        0.79
    """

    watts: Mapping[str, float] = field(default_factory=lambda: WATTS)
    usd_per_hour: Mapping[str, tuple[float, float]] = field(default_factory=lambda: USD_PER_HOUR)
    pue: float = 1.58
    kg_per_kwh: float = 0.954 / POUNDS_PER_KG

    def of(self, hours: Mapping[str, float]) -> Footprint:
        """What so many hours by kind of device come to."""
        kwh = sum(h * _rate(self.watts, kind) for kind, h in hours.items()) / 1000 * self.pue
        prices = [(h, _rate(self.usd_per_hour, kind)) for kind, h in hours.items()]
        low, high = (sum(h * price[end] for h, price in prices) for end in (0, 1))
        return Footprint(dict(hours), kwh, kwh * self.kg_per_kwh, (low, high))

    def stated(self, kinds: Iterable[str]) -> list[str]:
        """Every assumption that figures of these kinds of devices rest on, a line each."""
        lines = []
        for kind in sorted(set(kinds)):
            low, high = _rate(self.usd_per_hour, kind)
            watts = _rate(self.watts, kind)
            lines.append(f"{kind}: {watts:g} W, $ {low:g} to {high:g} an hour")
        kg, pounds = self.kg_per_kwh, self.kg_per_kwh * POUNDS_PER_KG
        lines.append(f"data centre: {self.pue:g} times the energy of its devices (PUE)")
        return [*lines, f"electricity: {kg:.4g} kg ({pounds:.4g} lb) CO2e per kWh"]


def _rate(table: Mapping[str, Any], kind: str) -> Any:
    """The entry whose name is the longest part of a device's; the empty name is part of any."""
    return table[max((name for name in table if name in kind), key=len)]


@dataclass(frozen=True)
class Footprint:
    """What device hours come to at stated rates.

    Attributes:
        hours: By kind of device.
        kwh: Energy with the data centre's overhead.
        kg_co2e: CO2 equivalents.
        usd: Lowest and highest price.
    """

    hours: Mapping[str, float]
    kwh: float
    kg_co2e: float
    usd: tuple[float, float]

    @property
    def lb_co2e(self) -> float:
        """CO2 equivalents in pounds, the unit of APQ's table."""
        return self.kg_co2e * POUNDS_PER_KG

    def __add__(self, other: Footprint) -> Footprint:
        kinds = dict.fromkeys([*self.hours, *other.hours])
        hours = {kind: self.hours.get(kind, 0.0) + other.hours.get(kind, 0.0) for kind in kinds}
        low, high = (self.usd[end] + other.usd[end] for end in (0, 1))
        return Footprint(hours, self.kwh + other.kwh, self.kg_co2e + other.kg_co2e, (low, high))

    def times(self, factor: float) -> Footprint:
        """So many times as much."""
        hours = {kind: hours * factor for kind, hours in self.hours.items()}
        low, high = self.usd
        return Footprint(
            hours, self.kwh * factor, self.kg_co2e * factor, (low * factor, high * factor)
        )


# ---- the published table -------------------------------------------------------------------------

PUBLISHED: Mapping[str, tuple[float, float]] = {
    "ProxylessNAS": (0.0, 200.0),
    "ProxylessNAS + AMC": (0.0, 204.0),
    "MobileNetV2 + HAQ": (0.0, 96.0),
    "ProxylessNAS + AMC + HAQ": (0.0, 300.0),
    "DNAS": (0.0, 40.0),
    "SPOS": (288.0, 24.0),
    "APQ": (2400.0, 0.5),
}
"""GPU hours once and for each deployment on ImageNet, as the main table of APQ has them (CVPR
2020, arXiv:2006.08509)."""

APQ_RATES = Rates(
    watts={"V100": 1000 * 0.2836 / 0.954 / 1.58},
    usd_per_hour={"V100": (0.74, 2.48)},
)
"""Rates that give every row of that table: it has 0.2836 lb of CO2e and $ 0.74 to 2.48 for a GPU
hour. With the paper's sources (Strubell et al.) that is 188 W; how it got there it does not say."""


def published(name: str, deployments: float = 1) -> tuple[float, Footprint]:
    """A row of the published table.

    Args:
        name: Key of ``PUBLISHED``.
        deployments: N, the number of devices and budgets to find a network for.

    Returns:
        GPU hours of all of it, and what one more deployment comes to.

    Example:
        >>> hours, more = published("APQ", deployments=40)
        >>> hours, round(more.lb_co2e, 2), [round(usd, 1) for usd in more.usd]
        (2420.0, 0.14, [0.4, 1.2])
    """
    once, each = PUBLISHED[name]
    return once + each * deployments, APQ_RATES.of({"V100": each})
