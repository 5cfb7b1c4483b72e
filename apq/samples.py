"""The table of samples: one measured accuracy of one candidate per row, in Parquet.

A samples folder is a Parquet dataset of immutable part files, so ``pd.read_parquet(folder)`` reads
it whole. Parts are written under a temporary name and renamed; readers never see half a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from apq.cost import Cost, summed
from apq.errors import SamplesError, SpaceError, side_by_side
from apq.files import Schema, Sealed, parse_json, sealed, shipped, to_json, whole
from apq.files.reading import CostTable, Count, Text
from apq.files.tables import read_parquet, table_hash
from apq.space import Choice, Genes, Space, is_format
from apq.space.formats import ordered
from apq.space.graph import Graph, number
from apq.space.layer import bitops, channel_count, macs, size_bits, to_array, weight_count
from apq.space.schema import SpaceField
from apq.version import __version__

MEASURED: tuple[tuple[str, pa.DataType], ...] = (
    ("accuracy", pa.float64()),  # fraction of the images that were right
    ("loss", pa.float64()),  # mean cross-entropy, nats
    ("precision", pa.string()),  # "fp32" or "quantized"
    ("scheme", pa.string()),  # how it was quantized; null for fp32
    ("finetune_steps", pa.int32()),  # training steps after cutting it out
    ("images", pa.int32()),  # how many images the accuracy is over
    ("seed", pa.int64()),
    ("seconds", pa.float64()),  # time this sample took
    ("macs", pa.int64()),  # multiply-accumulates of one image
    ("params", pa.int64()),  # weights, biases and batch-norm scales
    ("bitops", pa.int64()),  # MACs x weight bits x activation bits
    ("size_bytes", pa.int64()),  # weights at their bits plus a bias and a scale per channel
)
"""Columns that come before the candidate's own (``depth_0 …, b00_kernel …``)."""


def schema(space: Space) -> pa.Schema:
    """The Parquet schema of a space's samples; a skipped slot's columns are null.

    An axis of plain widths is a column of numbers. One that offers schemes by name holds text:
    ``"ternary"``, and ``"8"`` for a plain width.
    """
    genes = [(axis.name, pa.string() if axis.named else pa.int16()) for axis in space.axes]
    return pa.schema([*MEASURED, *genes])


def table_columns(space: Space, genes: Genes, precision: str) -> dict[str, list[Any]]:
    """Counted and gene columns for n candidates; fp32 rows have no bits."""
    columns: dict[str, list[Any]] = {n: [] for n in ("macs", "params", "bitops", "size_bytes")}
    for row in genes:
        candidate = space.build(row)
        layers = to_array(list(space.layers(candidate)))
        work = int(macs(layers).sum())
        channels = int(channel_count(layers).sum())
        weights = int(weight_count(layers).sum())
        columns["macs"].append(work)
        columns["params"].append(weights + _beside(space.graph_of(candidate)))
        if precision == "fp32":
            columns["bitops"].append(work * 32 * 32)
            columns["size_bytes"].append(4 * (weights + channels))
        else:
            columns["bitops"].append(int(bitops(layers).sum()))
            columns["size_bytes"].append(int(-(-size_bits(layers) // 8).sum()))
    for name, values in space.values(genes).items():
        bits = is_format(name)
        absent = pd.isna(values) | (bits and precision == "fp32")
        read = str if values.dtype == object else int
        columns[name] = [None if a else read(v) for a, v in zip(absent, values, strict=True)]
    return columns


def _beside(graph: Graph) -> int:
    """Parameters of a candidate that are no weights: scales and biases of batch norm, and biases
    of linear layers."""
    return sum(
        number(node.channels) * (2 if node.op == "conv" else node.bias) for node in graph.layers
    )


def write_part(
    path: Path,
    space: Space,
    genes: Genes,
    measured: Mapping[str, Sequence[Any]],
    precision: str,
    metadata: Mapping[str, Any],
) -> None:
    """Write one part file whole.

    Args:
        path: Final name; its folder is created.
        space: The space of the candidates.
        genes: Canonical rows, shape ``(n, len(space.axes))``.
        measured: ``accuracy``, ``loss``, ``scheme``, ``finetune_steps``, ``images``, ``seed`` and
            ``seconds``, each of length n.
        precision: ``"fp32"`` or ``"quantized"``.
        metadata: What made them; space, fingerprint and apq version are added.

    Raises:
        SamplesError: the disk refused; nothing of an older file is lost.
    """
    columns = table_columns(space, genes, precision) | {k: list(v) for k, v in measured.items()}
    columns["precision"] = [precision] * len(genes)
    made = {
        "apq_version": __version__,
        "space": space.to_dict(),
        "fingerprint": space.fingerprint,
        **metadata,
    }
    described = schema(space)
    table = pa.table({name: columns[name] for name in described.names}, schema=described)
    said = sealed({**made, "table": table_hash(table)})
    table = table.replace_schema_metadata({"apq": to_json(said, sort_keys=True)})
    try:
        with whole(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    except OSError as error:
        raise SamplesError(
            f"cannot write {path}: {error.strerror or error}. Parts written so far are intact; "
            "make room and run the same command again."
        ) from error


class QuantizationTable(Schema):
    """How quantized samples were made, as :class:`apq.accuracy.Quantization`."""

    scheme: Text
    finetune_steps: Count
    batch: Annotated[int, Field(ge=1, lt=2**31)]
    lr: Annotated[float, Field(gt=0)]


class PartHeader(Sealed):
    """What a part file says of its making.

    Attributes:
        space, fingerprint: Of the candidates.
        table: Hash of the rows; older files have none.
        supernet: Hash of the supernet the samples were measured on.
        images, image_set, split: Digest, name and part of the images.
        task: What accuracy is: of ``classification`` the share of images that were right, of others
            (:class:`apq.supernet.task.Task`) their mean score.
        validation_images, calibration_images: How many of them.
        drawn: Whether validation images were drawn.
        seed: Decided the candidates.
        plan: Version of the plan they follow.
        precision: What kind of samples.
        quantization: How quantized ones were made.
        corrected: Whether subnets were refitted after cutting (:mod:`apq.supernet.correct`).
        cost: What measuring this part cost.
    """

    what = "a part of samples as apq collect writes it"
    remedy = "Delete it and run apq collect again: only its rows are collected anew."
    error = SamplesError

    space: SpaceField
    fingerprint: Text
    table: Text | None = None
    supernet: Text | None = None
    images: Text | None = None
    image_set: Text | None = None
    split: Text | None = None
    task: Text = "classification"
    validation_images: Count | None = None
    calibration_images: Count | None = None
    drawn: bool = False
    seed: Count | None = None
    plan: Count = 1
    precision: Literal["fp32", "quantized"] | None = None
    quantization: QuantizationTable | None = None
    corrected: bool = False
    cost: CostTable | None = None


@dataclass(frozen=True)
class Samples:
    """Samples of one space.

    Attributes:
        space: The space, as the files carry it.
        frame: All columns, one row per sample, in file order.
        metadata: What made the first part (supernet hash, image set, split, seed, …).
        cost: Of measuring them, over all processes; None: not all parts say.
    """

    space: Space
    frame: pd.DataFrame = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)
    cost: Cost | None = None

    @cached_property
    def genes(self) -> Genes:
        """Canonical rows, shape ``(n, len(space.axes))``; fp32 rows hold the highest bits."""
        columns = {axis.name: self.frame[axis.name].to_numpy() for axis in self.space.axes}
        return self.space.from_values(columns)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Measured accuracies as fractions, shape ``(n,)``."""
        values: NDArray[np.float64] = self.frame["accuracy"].to_numpy(np.float64)
        return values

    @property
    def precision(self) -> NDArray[np.object_]:
        """``"fp32"`` or ``"quantized"`` per row."""
        values: NDArray[np.object_] = self.frame["precision"].to_numpy(object)
        return values

    @property
    def supernet(self) -> str:
        """Hash of the supernet they were measured on."""
        return str(self.metadata.get("supernet", ""))

    @property
    def corrected(self) -> bool:
        """Whether subnets were refitted after cutting instead of trained."""
        return bool(self.metadata.get("corrected", False))

    def __len__(self) -> int:
        return len(self.frame)

    def of(self, space: Space) -> Samples:
        """The same as samples of a space; fp32 ones may be of one with other number formats.

        Raises:
            SpaceError: the spaces differ otherwise; the message shows both.
        """
        fp32 = set(self.precision) == {"fp32"}
        space.require_same(self.space, "the space asked for", "the samples", formats=not fp32)
        return self._in(space)

    def _in(self, space: Space) -> Samples:
        if space.fingerprint == self.space.fingerprint:
            return self
        old = [axis.name for axis in self.space.axes if axis.is_format]
        new = {axis.name: None for axis in space.axes if axis.is_format}
        return replace(self, space=space, frame=self.frame.drop(columns=old).assign(**new))


def by_choice(samples: Samples) -> pd.DataFrame:
    """Mean accuracy by what was chosen: is a class of candidates broken?

    Returns:
        Columns ``attribute``, ``choice``, ``accuracy`` and ``share``. Depth is the number of
        blocks; a kernel's (width's, bits') accuracy weighs every sample by the share of its blocks
        that chose it. Widths are thirds of what a slot offers: 1 narrowest, 3 widest.
    """
    space, genes, accuracy = samples.space, samples.genes, samples.accuracy
    decides = space.decides(genes)
    blocks = space.active(genes).sum(axis=1)
    rows: list[tuple[str, Choice, float, float]] = [
        ("depth", int(n), *_mean(accuracy, blocks == n)) for n in np.unique(blocks)
    ]
    fp32 = set(samples.precision) == {"fp32"}
    for attribute in (a for a in space.attributes if not (fp32 and is_format(a))):
        own = [(j, a) for j, a in enumerate(space.axes) if a.attribute == attribute]
        shares: dict[Choice, NDArray[np.float64]] = {}
        for j, axis in own:
            size = len(axis.choices)
            for index, choice in enumerate(axis.labels):
                label = 1 + 3 * index // size if attribute == "width" else choice
                chosen = decides[:, j] & (genes[:, j] == index)
                per = 1 if axis.slot is None else blocks
                shares[label] = shares.get(label, 0.0) + chosen / per
        order = ordered(shares) if is_format(attribute) else sorted(shares)
        rows += [(attribute, key, *_mean(accuracy, shares[key])) for key in order]
    return pd.DataFrame(rows, columns=["attribute", "choice", "accuracy", "share"])


def _mean(accuracy: NDArray[np.float64], weight: NDArray[Any]) -> tuple[float, float]:
    """Weighted mean, and the mean weight."""
    total = float(weight.sum())
    return float(accuracy @ weight) / total if total else float("nan"), total / len(weight)


def part_files(folder: Path) -> list[Path]:
    """Finished part files of a folder, sorted by name."""
    return sorted(p for p in folder.glob("*.parquet") if not p.name.startswith((".", "_")))


def part_metadata(path: Path) -> dict[str, Any]:
    """What a part file says about its making.

    Raises:
        SamplesError: unreadable, truncated, or not written by apq.
    """
    return _header(path).said


ELSEWHERE = (
    "Samples are what apq collect writes: a folder of part-*.parquet files, or one of them. "
    "A table measured elsewhere needs its space: apq train-predictor --samples FILE --space "
    "SPACE, or --columns for one whose columns have other names."
)
"""What to do about a file that apq did not write."""


def _header(path: Path) -> PartHeader:
    own = path.match("part-*.parquet")  # otherwise it may be anybody's: it is not to be deleted
    try:
        raw = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SamplesError(
            f"{path} is not a readable Parquet file ({str(error).rstrip('.')}). "
            f"{PartHeader.remedy if own else ELSEWHERE}"
        ) from error
    if b"apq" not in raw:
        raise SamplesError(f"{path} carries no apq metadata, so its space is unknown. {ELSEWHERE}")
    if not own and not raw[b"apq"].startswith(b"{"):  # a front, say, names the version only
        raise SamplesError(f"{path} is a table of apq, but not of samples. {ELSEWHERE}")
    return parse_json(raw[b"apq"], PartHeader, str(path))


def read_samples(path: Path | str, space: Space | None = None) -> Samples:
    """Read a samples folder or a single part.

    Args:
        path: Folder of part files, or one file; also one that apq carries.
        space: If given, the samples must be of this space.

    Raises:
        SamplesError: nothing there, a damaged part, missing columns, parts that do not belong
            together, candidates that the space does not have, accuracies that are missing or
            outside 0..1, losses that are not finite.
        SpaceError: samples of another space; the message shows both.

    Example:
        >>> import apq
        >>> samples = apq.read_samples("digits/fp32")
        >>> samples.genes.shape == (len(samples), len(samples.space.axes))
        True
        >>> samples.accuracy.shape  # fractions; samples.frame is the table they stand in
        (30,)
    """
    path = shipped(path)
    files = part_files(path) if path.is_dir() else [path] if path.exists() else []
    if not files:
        raise SamplesError(f"no samples at {path}. Collect some: apq collect --out {path}")
    first = _header(files[0])
    own = first.space
    if space is not None:
        space.require_same(own, "the command's space", str(path), formats=first.precision != "fp32")
    frames, costs = [], []
    for file in files:
        made = _header(file)
        costs.append(made.cost)
        for key in ("fingerprint", "supernet", "images", "corrected"):
            mine, theirs = getattr(made, key), getattr(first, key)
            if mine != theirs:
                raise SamplesError(
                    f"{file.name} and {files[0].name} in {path} do not belong together:\n"
                    + side_by_side({key: mine}, {key: theirs}, (file.name, files[0].name))
                )
        frames.append(_read_rows(file, made))
    frame = pd.concat(frames, ignore_index=True)
    _require_measured(frame, path)
    samples = Samples(own, frame, first.said, _sum(costs))
    try:
        _ = samples.genes
    except SpaceError as error:
        raise SamplesError(f"{path}: {error}") from error
    return samples if space is None else samples._in(space)


def _require_measured(frame: pd.DataFrame, path: Path) -> None:
    """Refuse accuracies that are missing or no fractions, and losses that are not finite."""
    values = frame["accuracy"].to_numpy(np.float64)
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise SamplesError(
            f"{path}: row {i} has accuracy {values[i]}, must be a fraction in 0..1 "
            f"({int(wrong.sum())} such row(s))"
        )
    losses = frame["loss"].to_numpy(np.float64)
    if not np.isfinite(losses).all():
        i = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise SamplesError(
            f"{path}: row {i} has loss {losses[i]}: the network it was measured on diverged. Train "
            "the supernet again with a lower learning rate, and collect anew."
        )


def _sum(costs: Sequence[CostTable | None]) -> Cost | None:
    known = [cost.model_dump() for cost in costs if cost is not None]
    return summed(known) if len(known) == len(costs) else None


def _read_rows(path: Path, header: PartHeader) -> pd.DataFrame:
    """The rows of a part, in the columns of its space.

    Raises:
        SamplesError: the part is damaged, or lacks a column or a cell.
    """
    table = read_parquet(path, SamplesError, PartHeader.remedy)
    wanted = schema(header.space)
    missing = [name for name in wanted.names if name not in table.column_names]
    if missing:
        raise SamplesError(
            f"{path} lacks {len(missing)} column(s): {', '.join(missing[:6])}. "
            f"Samples of {header.space.name!r} have: {', '.join(wanted.names[:14])}, …"
        )
    table = table.select(wanted.names)
    if header.table is not None and header.table != table_hash(table):
        raise SamplesError(
            f"{path} is damaged: its rows do not have the hash stored with them. "
            f"{PartHeader.remedy}"
        )
    for name, kind in MEASURED:
        column = table[name]
        if column.type != kind and not (pa.types.is_null(column.type) and name == "scheme"):
            raise SamplesError(f"{path}: column {name} holds {column.type}, must be {kind}")
        if column.null_count and name not in ("scheme", "accuracy", "loss"):
            raise SamplesError(f"{path}: column {name} lacks {column.null_count} of its cells")
    for axis in header.space.axes:
        kind = table[axis.name].type
        fits = pa.types.is_string(kind) if axis.named else pa.types.is_integer(kind)
        if not fits and not pa.types.is_null(kind):
            wanted_kind = "text" if axis.named else "whole numbers"
            raise SamplesError(f"{path}: column {axis.name} holds {kind}, must be {wanted_kind}")
    return table.to_pandas()
