"""Profiles of device tools, matched to layers by the names of probes or by shapes.

``apq lut probe`` writes models whose tensors and nodes carry their table key, so that every tool's
rows identify their layer. A tool that reports shapes needs no such names.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apq.errors import TableError, choose
from apq.hardware.lut import LookupTable, at_bits
from apq.hardware.profiles import (
    aihub,
    executorch,
    litert,
    onnxruntime,
    openvino,
    st,
    trtexec,
    vela,
)
from apq.hardware.profiles.base import Profile, Reader, Timed, key_of, layer_of, read_text
from apq.space import Layer
from apq.space.layer import to_array

PROFILES: dict[str, Reader] = {
    "litert": litert.READER,
    "onnxruntime": onnxruntime.READER,
    "vela": vela.READER,
    "trtexec": trtexec.READER,
    "openvino": openvino.READER,
    "executorch": executorch.READER,
    "st": st.READER,
    "aihub": aihub.READER,
}
"""Readers by name."""

__all__ = ["PROFILES", "import_profiles", "key_of", "kind_of", "layer_of", "read_profile"]


def kind_of(path: Path) -> str:
    """Key of ``PROFILES`` of a file, detected from its contents; empty: none."""
    try:
        text = read_text(path)
    except TableError:
        return ""
    return next((kind for kind, reader in PROFILES.items() if reader.knows(text)), "")


def read_profile(path: Path, kind: str) -> Profile:
    """A profile.

    Args:
        path: The file.
        kind: Key of ``PROFILES``.

    Raises:
        TableError: it is not of this kind, or damaged; says where.
    """
    reader, text = PROFILES[choose(kind, PROFILES, "kind of profile")], read_text(path)
    if not reader.knows(text):
        raise TableError(f"{path} is no profile of {reader.tool}: it lacks that tool's header")
    return reader.read(text, str(path))


def import_profiles(paths: Sequence[Path], kind: str, frequency_mhz: float = 0.0) -> LookupTable:
    """A table from the profiles of a device tool.

    Within a file, operators of the same probe are summed; several files with the same probes are
    repeated runs and averaged. Rows with shapes but no probe are averaged within a file.

    Args:
        paths: Files of one tool.
        kind: Key of ``PROFILES``.
        frequency_mhz: The clock, for a tool that writes cycles.

    Raises:
        TableError: a file is damaged, a row is there twice, no row can be joined, or cycles have
            no clock.
    """
    runs: dict[Layer, list[float]] = defaultdict(list)
    unmatched: list[str] = []
    figures = ""
    for path in paths:
        profile = read_profile(path, kind)
        figures = profile.figures
        found, lost = _join(profile, path, frequency_mhz, kind)
        unmatched += lost
        for layer, took in found.items():
            runs[layer].append(took)
    if not runs:
        some = ", ".join(dict.fromkeys(unmatched[:3]))
        raise TableError(
            f"none of {len(unmatched)} rows of {paths[0]} says which layer it is ({some}): they "
            "carry neither the name of a probe nor shapes. Write probes with `apq lut probe`, "
            "profile those, and import what comes back; a profile of one probe may also be named "
            "after it."
        )
    layers = list(runs)
    latency_ms = np.array([np.mean(runs[layer]) for layer in layers])
    most = max(len(values) for values in runs.values())
    spread = [np.std(v, ddof=1) / np.mean(v) for v in runs.values() if len(v) > 1 and np.mean(v)]
    header = {
        "profile": f"{PROFILES[kind].tool}: {figures}; operators of a layer are added",
        "runs": str(most),
        "noise": f"{np.median(spread):.1%} (median spread of runs)" if spread else "one run",
    }
    if unmatched:
        names = list(dict.fromkeys(unmatched))
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        header["unmatched"] = ", ".join(n[:80] for n in names[:10]) + more
    bits = max(max(layer.weight_bits, layer.activation_bits) for layer in layers)
    blocks = any(layer.op == "mbconv" for layer in layers)
    return LookupTable(
        name=paths[0].stem, source=f"profiled with {PROFILES[kind].tool}",
        layers=at_bits(to_array(layers), bits), prices={"latency_ms": latency_ms},
        granularity="block" if blocks else "layer", runs_at_bits=bits, header=header,
    )  # fmt: skip


def _join(
    profile: Profile, path: Path, frequency_mhz: float, kind: str
) -> tuple[dict[Layer, float], list[str]]:
    """Milliseconds by layer, and the names of rows without a layer."""
    of_file = layer_of(path.stem)
    sums: dict[Layer, float] = defaultdict(float)
    shaped: dict[Layer, list[float]] = defaultdict(list)
    unmatched: list[str] = []
    seen: set[str] = set()
    for row in profile.rows:
        took = _milliseconds(row, path, frequency_mhz)
        layer = layer_of(row.name) or of_file
        if kind != "vela" and row.name in seen:  # Vela names a fused activation after its layer
            raise TableError(f"{path} has {row.name!r} twice; which of the two is meant?")
        seen.add(row.name)
        if layer is not None:
            sums[layer] += took
        elif row.layer is not None:
            shaped[row.layer].append(took)
        else:
            unmatched.append(row.name)
    return dict(sums) | {
        k: float(np.mean(v)) for k, v in shaped.items() if k not in sums
    }, unmatched


def _milliseconds(row: Timed, path: Path, frequency_mhz: float) -> float:
    if math.isnan(row.cycles):
        return row.milliseconds
    if not frequency_mhz > 0:
        raise TableError(f"{path} holds cycles; say the clock: --frequency-mhz (Vela: core_clock)")
    return row.cycles / (frequency_mhz * 1e3)
