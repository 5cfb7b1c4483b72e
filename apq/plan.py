"""Which candidates a folder of samples holds, measured or not: its plan, and what was asked for.

Sample i is decided by seed and index alone: the same candidate however often collection is
interrupted, whoever does it, and whatever count is asked for.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import Field, model_validator

from apq.errors import SamplesError
from apq.files import Document, read_json, whole
from apq.files.reading import Items
from apq.samples import part_files, part_metadata
from apq.space import Genes, Space, is_format

_SMALL = 20_000  # spaces up to this size are listed and shuffled instead of sampled
POLICIES = 10  # bit policies per architecture in the grouped half (APQ section 4.1)
VERSION = 3
"""Counts up when plans of quantized samples change; a folder has samples of one."""
EVEN = 0.5
"""Concentration of the Dirichlet distribution that a candidate's odds of formats come from: below 1
most candidates prefer few formats, above all use about as much of each."""


def plan(space: Space, count: int, seed: int, quantized: bool, corrected: bool = False) -> Genes:
    """The first ``count`` candidates to evaluate, all different, shape ``(count, len(axes))``.

    fp32: architectures uniform at random (bits at their highest; they are not used). Quantized:
    the paper's mix, in blocks of twenty: ten random candidates, then one architecture with ten bit
    policies. Every candidate draws odds of its own for the formats, so that some have low bits
    nearly everywhere, some high ones, some all kinds, and the first of every ten has a single
    format (ours): of formats drawn evenly, all candidates would have about the same mean, while a
    search asks about all means.

    Corrected samples (:mod:`apq.supernet.correct`) are of subnets that nothing was trained for: far
    from the whole network all are equally bad. Their plan begins with the whole network and with
    what every gene does to it alone, at its smallest and in the middle (fp32: cut or skipped;
    quantized: rounded); the architectures that follow have few or many genes changed (ours).

    Args:
        space: What is sampled.
        count: How many candidates.
        seed: Decides them.
        quantized: Whether bits vary.
        corrected: Whether weights are refitted instead of trained.

    Raises:
        SamplesError: the space holds fewer candidates than asked for.
    """
    total = space.count() if quantized else architectures(space)
    if count > total:
        kind = "candidates" if quantized else "architectures"
        raise SamplesError(
            f"space {space.name!r} has only {total:,} different {kind}, "
            f"--count {count:,} is too many"
        )
    seen: set[bytes] = set()
    rows: list[NDArray[np.int16]] = []
    stream = _stream(space, seed, quantized, total, corrected)
    for batch in itertools.chain([one_at_a_time(space, quantized)] if corrected else [], stream):
        for row in batch:
            key = row.tobytes()
            if key not in seen:
                seen.add(key)
                rows.append(row)
                if len(rows) == count:
                    return np.stack(rows)
    raise AssertionError("the stream of candidates is endless")  # pragma: no cover


def one_at_a_time(space: Space, quantized: bool) -> Genes:
    """The whole network, and what single genes do to it.

    Args:
        space: Of the network.
        quantized: Whether its format genes are looked at; else all others are.

    Returns:
        The whole network, then it with one gene at its smallest, gene by gene, then with one in the
        middle of its choices; shape ``(n, len(axes))``.
    """
    top = space.whole
    genes = np.flatnonzero(_bit_columns(space) == quantized)
    rows = [top]
    for share in (0.0, 0.5):
        changed = np.repeat(top, len(genes), axis=0)
        changed[np.arange(len(genes)), genes] = (space.cardinalities[genes] - 1) * share
        rows.append(space.snap(changed))
    return np.concatenate(rows)


def planned(
    folder: Path, space: Space, count: int, seed: int, quantized: bool,
    corrected: bool | None = None,
) -> Genes:  # fmt: skip
    """The first ``count`` candidates of a folder: its :func:`plan`, with what was asked for
    (:func:`ask`) in its place and not repeated; shape ``(count, len(axes))``. ``corrected``: None
    if the folder's samples say."""
    asked = _asked(folder)
    if corrected is None:
        corrected = any(part_metadata(p).get("corrected", False) for p in part_files(folder)[:1])
    if not asked:
        return plan(space, count, seed, quantized, corrected)
    rows = {start + i: row for (start, _), genes in asked.items() for i, row in enumerate(genes)}
    taken = {row.tobytes() for row in rows.values()}
    own = plan(space, min(count + len(rows), space.count()), seed, quantized, corrected)
    free = iter([row for row in own if row.tobytes() not in taken])
    try:
        return np.stack([rows[i] if i in rows else next(free) for i in range(count)])
    except StopIteration:
        raise SamplesError(
            f"space {space.name!r} has too few candidates for --count {count:,}"
        ) from None


def ask(
    folder: Path,
    space: Space,
    seed: int,
    choose: Callable[[Genes], Genes],
    about: Mapping[str, str],
) -> tuple[int, int]:
    """Append chosen candidates to what a folder of quantized samples will hold.

    What was asked for before and is not measured yet is kept instead of choosing anew, so that an
    interrupted run continues.

    Args:
        folder: The samples.
        space: Their space.
        seed: The folder's.
        choose: From all candidates of the folder so far, ``(k, axes)``, to those to append.
        about: Written beside them: what made the choice.

    Returns:
        First and one past the last of their places; ``collect`` with that count measures them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".asking.lock"):
        asked = _asked(folder)
        for start, stop in sorted(asked):
            if not covered(folder, stop)[start:].all():
                return start, stop
        stops = [int(path.stem.split("-")[2]) for path in part_files(folder)]
        start = max([0, *stops])
        known = planned(folder, space, start, seed, True) if start else _none(space)
        genes = choose(known)
        stop = start + len(genes)
        text = json.dumps(
            {"fingerprint": space.fingerprint, **about, "genes": genes.tolist()}, sort_keys=True
        )
        with whole(folder / f".asked-{start:06d}-{stop:06d}.json") as path:
            path.write_text(text, encoding="utf-8")
    return start, stop


def _none(space: Space) -> Genes:
    return np.zeros((0, len(space.axes)), dtype=np.int16)


class Asked(Document):
    """Candidates that were asked for, as rows of genes."""

    what = "a list of candidates that apq collect asked for"
    remedy = "Delete it and ask again: samples stay."
    error = SamplesError

    genes: Items[Items[Annotated[int, Field(ge=0, lt=2**15)]]]

    @model_validator(mode="after")
    def _equal(self) -> Self:
        if len({len(row) for row in self.genes}) > 1:
            raise ValueError("rows of genes must be equally long")
        return self


def _asked(folder: Path) -> dict[tuple[int, int], Genes]:
    """What was asked for, by place."""
    found = {}
    for path in folder.glob(".asked-*-*.json"):
        _, start, stop = path.stem.rsplit("-", 2)
        found[int(start), int(stop)] = np.array(read_json(path, Asked).genes, dtype=np.int16)
    return found


def _bit_columns(space: Space) -> NDArray[np.bool_]:
    return np.array([axis.is_format for axis in space.axes])


def _stream(
    space: Space, seed: int, quantized: bool, total: int, corrected: bool
) -> Iterator[Genes]:
    """Batches of candidates, decided by the seed; repeats occur."""
    draw = _changed if corrected else Space.sample
    bits = _bit_columns(space)
    top = (space.cardinalities - 1).astype(np.int16)
    if total <= _SMALL and space.count() <= _SMALL:
        genes = space.every_candidate()
        if not quantized:
            genes = np.unique(space.canonical(np.where(bits, top, genes)), axis=0)
        yield genes[np.random.default_rng([seed, 0]).permutation(len(genes))]
        return
    for index in itertools.count():
        rng = np.random.default_rng([seed, index])
        if not quantized:
            yield space.canonical(np.where(bits, top, draw(space, 64, rng)))
            continue
        loose = draw(space, POLICIES, rng)
        grouped = np.repeat(draw(space, 1, rng), POLICIES, axis=0)
        for rows in (loose, grouped):
            for number, row in enumerate(rows):
                row[bits] = _policy(space, number == 0, rng)
        architecture = grouped.copy()
        grouped = space.snap(grouped, canonical=False)
        # a rule may tie bits to an architecture gene: the architecture of the group must stay
        kept = np.all(grouped[:, ~bits] == architecture[:, ~bits], axis=1)
        yield space.canonical(np.concatenate([space.snap(loose, canonical=False), grouped[kept]]))


def _changed(space: Space, count: int, rng: np.random.Generator) -> Genes:
    """Random rows that keep a random share of the whole network's genes."""
    share = rng.random((count, 1))
    rows = space.sample(count, rng)
    kept = rng.random(rows.shape) < share
    return space.snap(np.where(kept, space.cardinalities - 1, rows).astype(np.int16))


def _policy(space: Space, single: bool, rng: np.random.Generator) -> NDArray[np.int16]:
    """Choices for all format genes, by odds drawn for this candidate: half of them shared by all
    kinds of genes, half for each kind alone. ``single``: one format for all genes that offer it."""
    axes = [axis for axis in space.axes if axis.is_format]
    known = sorted({code for axis in axes for code in axis.choices})
    shared = rng.dirichlet(np.full(len(known), EVEN))
    alone = {a.attribute: rng.dirichlet(np.full(len(known), EVEN)) for a in axes}
    if single:
        shared = np.eye(len(known))[rng.integers(len(known))]
    genes = []
    for axis in axes:
        odds = shared if single else (shared + alone[axis.attribute]) / 2
        own = odds[np.searchsorted(known, axis.choices)]
        if not own.sum():  # it does not offer the single format
            own = np.ones(len(own))
        genes.append(rng.choice(len(own), p=own / own.sum()))
    return np.array(genes, dtype=np.int16)


def architectures(space: Space) -> int:
    """Different architectures of a space, exclusions aside."""
    free = [len(space.axes[i].choices) for i in space.shared if not space.axes[i].is_format]
    sizes = [
        math.prod(
            len(choices)
            for name, choices in zip(slot.attributes, slot.choices, strict=True)
            if not is_format(name)
        )
        for slot in space.slots
    ]
    total = math.prod(free)
    for stage in space.stages:
        of_stage = [sizes[i] for i in stage.slots]
        total *= sum(math.prod(of_stage[:depth]) for depth in stage.depth)
    return total


def covered(folder: Path, count: int) -> NDArray[np.bool_]:
    """Which samples of the plan a folder holds, from the names of its parts; shape ``(count,)``.

    Raises:
        SamplesError: a part does not follow the naming of apq collect.
    """
    have = np.zeros(count, dtype=bool)
    for path in part_files(folder):
        try:
            _, start, stop = path.stem.split("-")
            have[int(start) : int(stop)] = True
        except ValueError:
            raise SamplesError(
                f"{path} was not written by apq collect (its parts are named part-START-STOP). "
                "Use another --out folder."
            ) from None
    return have
