"""Files: written atomically, read within limits and against schemas, with clear error messages."""

from apq.files.reading import (
    Document,
    Schema,
    Sealed,
    bounded_json,
    check,
    parse_json,
    read_json,
    read_toml,
    sealed,
    to_json,
)
from apq.files.shipped import own_copy, shipped
from apq.files.whole import file_digest, whole

__all__ = [
    "Document", "Schema", "Sealed", "bounded_json", "check", "file_digest", "own_copy",
    "parse_json", "read_json", "read_toml", "sealed", "shipped", "to_json", "whole",
]  # fmt: skip
