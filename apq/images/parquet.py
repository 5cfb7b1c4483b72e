"""Image sets in Parquet: the Hugging Face layout, and what is near it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from apq.errors import ImagesError
from apq.files import bounded_json
from apq.images.labels import Named, read_labels
from apq.images.parts import clutter, in_any_system, part_of

LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
LABEL_ENDINGS = ("_label", "_labels", "_class", "_target")
"""A column of such a name is one of labels, if the file does not say which column is."""


def find_files(path: Path) -> list[Path]:
    """The Parquet files of a set: the file itself, those in a folder, or those in its sub-folders,
    as repositories of data sets have them (``data/train-00000-of-00001.parquet``,
    ``default/train/0000.parquet``).

    Raises:
        ImagesError: the sub-folders hold several sets.
    """
    if path.is_file():
        return [path]

    def ours(file: Path) -> bool:
        inside = file.relative_to(path).parts
        return (
            file.suffix.lower() == ".parquet" and not any(map(clutter, inside)) and file.is_file()
        )

    here = sorted(filter(ours, path.iterdir()), key=in_any_system)
    if here:
        return here
    below = sorted(filter(ours, path.glob("*/**/*")), key=in_any_system)
    sets = {_set_of(f, path) for f in below}
    if len(sets) > 1:
        names = ", ".join(str(path / name) for name in sorted(sets)[:5])
        raise ImagesError(f"{path} holds several sets of Parquet files; name one of them: {names}")
    return below


def _set_of(file: Path, path: Path) -> str:
    folders = file.relative_to(path).parts[:-1]
    return "/".join(name for name in folders if part_of(name) is None)


def file_part(file: Path, path: Path) -> str:
    """Which part a file belongs to: by its own name, then by its folder's."""
    names = [file.stem] if file == path else [file.stem, *file.relative_to(path).parts[-2::-1]]
    return next(filter(None, map(part_of, names)), "train")


@dataclass(frozen=True)
class Table:
    """A Parquet file of pictures, which are not read.

    Attributes:
        path: The file.
        image: Its column of pictures.
        labels: Of its rows.
        rows: Per row group.
        bytes: Encoded bytes of the pictures per row group.
    """

    path: Path
    image: str
    labels: Named
    rows: tuple[int, ...]
    bytes: tuple[int, ...]


def read_table(file: Path, columns: Mapping[str, str], source: str) -> Table:
    """Labels of one file, and where its pictures are.

    Args:
        file: The file.
        columns: The names of its columns ``image`` and ``label``, for those that were chosen.
        source: What the user named the set by, for messages.

    Raises:
        ImagesError: unreadable, no such columns or several that could be meant, or a row without a
            label.
    """
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            schema = opened.schema_arrow
            declared = _declared(schema.metadata)
            image = _chosen(schema, file, columns, "image") or _image_column(schema, file, source)
            label = _chosen(schema, file, columns, "label") or _label_column(
                schema, declared, file, source
            )
            for name in (image, label):
                if schema.names.count(name) > 1:
                    times = schema.names.count(name)
                    raise ImagesError(f"{file} has column {name!r} {times} times")
            if image == label:
                raise ImagesError(
                    f"{file}: column {image!r} cannot hold both the images and the labels"
                )
            about = opened.metadata
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            if about.num_rows == 0:
                raise ImagesError(f"{file} has no rows")
            column = opened.read(columns=[label])[label]
    except (pa.ArrowException, OSError) as error:
        raise ImagesError(f"{file} is not a readable Parquet file: {error}") from error
    named = read_labels(column, declared.get(label, ()), str(file))
    held = [
        sum(
            c.total_uncompressed_size
            for c in columns_of(g)
            if c.path_in_schema.split(".")[0] == image
        )
        for g in groups
    ]
    return Table(file, image, named, tuple(g.num_rows for g in groups), tuple(held))


def columns_of(group: Any) -> list[Any]:
    """What a row group's metadata says of its columns."""
    return [group.column(i) for i in range(group.num_columns)]


def read_group(file: Path, column: str, number: int, first: int = 0) -> list[bytes | Path]:
    """The encoded pictures of a row group; ``first`` is its first row's number in the file.

    Raises:
        ImagesError: unreadable, or a row without a picture.
    """
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            values = opened.read_row_group(number, columns=[column])[column].to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ImagesError(f"{file} is not a readable Parquet file: {error}") from error
    return [_picture(value, file, column, first + row) for row, value in enumerate(values)]


def _picture(value: Any, file: Path, column: str, row: int) -> bytes | Path:
    """What to decode of a cell: its bytes, or a file below the Parquet file's folder."""
    path = value
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(path, str) or not path:
        raise ImagesError(f"{file}: {column}.bytes is missing in row {row}")
    folder = file.parent.resolve()
    found = (folder / path).resolve()
    if not found.is_relative_to(folder):
        raise ImagesError(f"{file} row {row}: the picture {path!r} lies outside {file.parent}")
    if not found.is_file():
        raise ImagesError(
            f"{file} row {row}: there is no picture {path!r} below {file.parent}, and the row "
            "holds no bytes"
        )
    return found


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _encoded(kind: pa.DataType) -> bool:
    """Whether a column is a struct with ``bytes``."""
    if not pa.types.is_struct(kind):
        return False
    at = kind.get_field_index("bytes")
    return at >= 0 and (_is_binary(kind.field(at).type) or pa.types.is_null(kind.field(at).type))


def _chosen(schema: pa.Schema, file: Path, columns: Mapping[str, str], role: str) -> str | None:
    """The column that the user chose for a role; None: none was.

    Raises:
        ImagesError: there is no such column, or images were sought where none can be.
    """
    name = columns.get(role)
    if name is None:
        return None
    if name not in schema.names:
        raise ImagesError(
            f"{file} has no column {name!r} for {role}; it has {', '.join(sorted(schema.names))}"
        )
    if role == "image" and schema.names.count(name) == 1:
        kind = schema.field(name).type
        if not (_encoded(kind) or _is_binary(kind) or pa.types.is_string(kind)):
            raise ImagesError(
                f"{file}: column {name!r} holds {kind}; images are bytes, a struct with 'bytes', "
                "or paths as text"
            )
    return name


def _image_column(schema: pa.Schema, file: Path, source: str) -> str:
    """Name of the column with pictures: a struct with ``bytes``, or bytes, or texts of paths."""
    kinds = {field.name: field.type for field in schema}
    structs = [name for name, kind in kinds.items() if _encoded(kind)]
    blobs = [name for name, kind in kinds.items() if _is_binary(kind)]
    paths = [n for n in ("image", "img") if n in kinds and pa.types.is_string(kinds[n])]
    for found in (structs, blobs, paths):
        if "image" in found or len(found) == 1:
            return "image" if "image" in found else found[0]
        if found:
            raise ImagesError(_several(file, source, "pictures", "image", found))
    raise ImagesError(_wanted(schema, file, source))


def _label_column(
    schema: pa.Schema, declared: dict[str, tuple[str, ...]], file: Path, source: str
) -> str:
    """Name of the column with labels: ``label``, or the only one whose classes the file names, or
    the only one with a name for labels."""
    if "label" in schema.names:
        return "label"
    names: dict[str, None] = dict.fromkeys(schema.names)
    for found in (
        [name for name in names if name in declared],
        [name for name in names if name in LABEL_NAMES or name.lower().endswith(LABEL_ENDINGS)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise ImagesError(_several(file, source, "labels", "label", found))
    raise ImagesError(_wanted(schema, file, source))


def _several(file: Path, source: str, what: str, role: str, found: Sequence[str]) -> str:
    return (
        f"{file} has several columns of {what} ({', '.join(found)}); choose one: "
        f"--images {source}::{role}={found[0]}"
    )


def _wanted(schema: pa.Schema, file: Path, source: str) -> str:
    return (
        f"{file} must have columns 'image' (struct with 'bytes', or bytes) and 'label'; it has "
        f"{', '.join(sorted(schema.names))}. Say which they are: "
        f"--images {source}::image=COLUMN,label=COLUMN"
    )


def _declared(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Class names by column from the schema metadata Hugging Face writes."""
    try:
        features = bounded_json((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(column): tuple(str(name) for name in about["names"])
            for column, about in features.items()
            if isinstance(about, dict) and isinstance(about.get("names"), Sequence)
            and not isinstance(about["names"], str)
        }  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
