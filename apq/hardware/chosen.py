"""A space priced on the devices that a user names, and what to say when they lack a cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apq.errors import TableError
from apq.files import file_digest, shipped
from apq.files.places import table_of
from apq.hardware import LookupTable, load_cost_model, price_space
from apq.hardware.pricing import PRICED, PricedSpace
from apq.space import PRESETS, Space


@dataclass(frozen=True)
class Priced:
    """A space on one or more devices.

    Attributes:
        space: The space.
        costs: Its prices.
        made_from: Hashes of space and tables.
        asked: What ``--space`` would name the space by.
        notes: What a user should know of the tables.
    """

    space: Space
    costs: PricedSpace
    made_from: dict[str, str]
    asked: str
    notes: tuple[str, ...] = ()

    def require(self, names: Iterable[str]) -> None:
        """Raise unless every cost of a device among ``names`` is priced; others are not looked at.

        Raises:
            TableError: no device prices one of them; says how a table is made.
        """
        known = {metric.partition("@")[0] for metric in self.costs.metrics}
        for name in names:
            metric = name.partition("@")[0]
            if metric not in PRICED or metric in known:
                continue
            build = f"apq lut build --model bitfusion-apq --space {self.asked}"
            if self.costs.sources:
                devices = ", ".join(source.partition(":")[0] for source in self.costs.sources)
                raise TableError(
                    f"{name} is unknown: {devices} has no {metric}. Name a table or simulated "
                    f"device that has by --lut; this builds one:\n  {build}"
                )
            raise TableError(
                f"{name} is unknown: there is no table of what layers of space "
                f"{self.space.name!r} cost on a device. Build one and run this again:\n  {build}\n"
                "Another table or a simulated device is named by --lut (apq lut --help)."
            )


def price_on(space: Space, devices: Sequence[str] = (), asked: str = "") -> Priced:
    """Price a space on tables and simulated devices.

    Args:
        space: The space.
        devices: Paths and names, as :func:`apq.load_cost_model` takes them. Without any: the
            space's default table, if it is there, else counted costs only.
        asked: What ``--space`` names the space by; empty: its own name.

    Raises:
        ApqError, TableError: a device is unknown, or does not price the whole space.
    """
    if not asked:
        preset = PRESETS.get(space.name)
        same = preset is not None and preset().fingerprint == space.fingerprint
        asked = space.name if same else f"{space.name}.toml"
    default = table_of(space.name)
    names = list(devices) or ([str(default)] if shipped(default).is_file() else [])
    notes = [] if names else [f"no table at {default}; counted costs only (--lut adds a device)"]
    hashes = {"space": space.fingerprint}
    for name in names:
        path = shipped(name)
        hashes[f"lut:{name}"] = file_digest(path) if path.is_file() else "built in"
    models = [load_cost_model(name) for name in names]
    tables = [model for model in models if isinstance(model, LookupTable)]
    notes += [f"{table.path}: {odd}" for table in tables if (odd := table.renamed())]
    return Priced(space, price_space(space, models), hashes, asked, tuple(notes))
