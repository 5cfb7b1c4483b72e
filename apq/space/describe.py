"""Describe a space: its genes, its size, and its network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apq.space.axes import is_format
from apq.space.base import Space
from apq.space.graph import Follows, Value, parts
from apq.space.layer import macs, to_array, weight_count


def genes_in_words(space: Space) -> list[tuple[str, str]]:
    """Every gene and its choices; neighbouring blocks with equal choices share a line."""
    rows: list[tuple[str, str]] = []
    for axis in (a for a in space.axes if a.slot is None):
        rows.append((axis.name, _choices(_menu(space, axis.name))))
    alike: dict[tuple[tuple[str, tuple[Any, ...]], ...], list[str]] = {}
    for slot in space.slots:
        own = tuple((a, _menu(space, f"{slot.name}_{a}")) for a in slot.attributes)
        if own:
            alike.setdefault(own, []).append(slot.name)
    for own, blocks in alike.items():
        words = [f"{name} {_choices(labels)}" for name, labels in own if not is_format(name)]
        formats = [f"{name} {_choices(labels)}" for name, labels in own if is_format(name)]
        rows.append((", ".join(blocks), "; ".join([*words, *formats])))
    return rows


def _menu(space: Space, name: str) -> tuple[Any, ...]:
    """The permitted choices of a gene."""
    place = space.place[name]
    return tuple(space.axes[place].labels[c] for c in space.allowed[place])


def _choices(labels: Sequence[Any]) -> str:
    """``8, 16, 24``, or ``16 … 96 in steps of 8``."""
    steps = set(np.diff(labels).tolist()) if all(isinstance(x, int) for x in labels) else set()
    if len(labels) > 4 and len(steps) == 1:
        return f"{labels[0]} … {labels[-1]} in steps of {steps.pop()}"
    return ", ".join(map(str, labels))


def nodes_in_words(space: Space) -> list[tuple[str, str, str, str]]:
    """Every node: name, what it does, its inputs, and when it runs."""
    rows = []
    for node in space.graph.nodes:
        kernel, groups = _value(node.kernel), node.groups
        words = [node.op, _value(node.channels)]
        if node.op == "conv":
            words.insert(1, f"{kernel}x{kernel}" if kernel.isdigit() else f"kernel {kernel}")
            words += ["depthwise"] if groups != 1 and groups == node.channels else []
            steps = node.stride if isinstance(node.stride, int) else "x".join(map(str, node.stride))
            words += [f"stride {steps}"] if steps != 1 else []
        words += [node.act] if node.act else []
        words += [node.call] if node.call else []
        when = ", ".join(f"{gene} in {list(allowed)}" for gene, allowed in node.when)
        rows.append((node.name, " ".join(words), ", ".join(node.inputs), when))
    return rows


def _value(value: Value) -> str:
    return "+".join(p.gene if isinstance(p, Follows) else str(p) for p in parts(value))


def ends(space: Space) -> dict[str, dict[str, float]]:
    """MACs (10^6) and weights (10^3) of the candidates with the first and the last choice of every
    gene."""
    rows = {"smallest": space.snap(space.cardinalities[None] * 0), "largest": space.whole}
    out = {}
    for name, row in rows.items():
        layers = to_array(list(space.layers(space.build(row[0]))))
        work, weights = float(macs(layers).sum()) / 1e6, float(weight_count(layers).sum()) / 1e3
        out[name] = {"macs_m": work, "weights_k": weights}
    return out


def space_file(space: Space) -> str:
    """A space, restricted or not, as the TOML file that ``--space`` reads."""
    kept = [
        f"{axis.name}={','.join(str(axis.labels[c]) for c in menu)}"
        for axis, menu, free in zip(space.axes, space.allowed, space.free, strict=True)
        if not free
    ]
    return to_toml(space.to_dict() | ({"restrict": kept} if kept else {}))


def to_toml(data: Mapping[str, Any]) -> str:
    """Plain data of a space as the TOML file that ``--space`` reads."""
    tables = {k: v for k, v in data.items() if isinstance(v, Mapping) or _rows(v)}
    lines = [f"{k} = {_toml(v)}" for k, v in data.items() if k not in tables]
    for name, value in tables.items():
        for table in [value] if isinstance(value, Mapping) else value:
            head = f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]"
            lines += ["", head, *(f"{k} = {_toml(v)}" for k, v in table.items())]
    return "\n".join(line for line in lines if line != "exclude = []") + "\n"


def _toml(value: Any) -> str:
    """A value on one line; texts and numbers are written as JSON writes them."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k} = {_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
