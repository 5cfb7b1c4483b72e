"""Parquet tables: written with a hash of their contents, read with page checksums verified."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apq.errors import ApqError
from apq.files.limits import MOST_CELLS, MOST_ROWS


def read_parquet(path: Path, error: type[ApqError], remedy: str) -> pa.Table:
    """Read a Parquet file.

    Args:
        path: The file.
        error: Class of the error that is raised.
        remedy: A sentence that says how to replace a broken file.

    Raises:
        ApqError: it is missing, damaged or too large (of the class ``error``).
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows, columns = file.metadata.num_rows, file.metadata.num_columns
            if rows > MOST_ROWS or rows * columns > MOST_CELLS:
                raise error(f"{path} has {rows:,} rows, at most {MOST_ROWS:,} are read. {remedy}")
            return file.read()
    except FileNotFoundError:
        raise error(f"{path} is missing. {remedy}") from None
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as wrong:
        raise error(
            f"{path} is damaged, or not a Parquet file ({str(wrong)[:200]}). {remedy}"
        ) from wrong


def table_hash(table: pa.Table) -> str:
    """Hash of names, types and cells, 16 hex digits; metadata and chunking are ignored."""
    h = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        h.update(f"{name} {column.type} {len(column)}\n".encode())
        absent = column.is_null().to_numpy()
        h.update(absent.tobytes())
        if pa.types.is_string(column.type):
            for cell in column.to_pylist():
                text = b"" if cell is None else cell.encode()
                h.update(len(text).to_bytes(8, "little") + text)
        else:
            h.update(column.drop_null().to_numpy().tobytes())
    return h.hexdigest()[:16]
