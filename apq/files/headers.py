"""Headers of safetensors files: metadata whose values are JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open

from apq.errors import ModelError
from apq.files.reading import Sealed, Text, bounded_json


class Header(Sealed):
    """Fields of every safetensors header that apq writes.

    Attributes:
        tensors: Hash of names, types, shapes and contents of the tensors; older files have none.
        hash: Hash of names and contents, which identifies a set of weights.
    """

    error = ModelError

    tensors: Text | None = None
    hash: Text | None = None


H = TypeVar("H", bound=Sealed)


def read_header(path: Path, schema: type[H]) -> H:
    """The header of a safetensors file, without reading its tensors.

    Raises:
        ModelError: it is missing or damaged, or the header of another kind of file.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            texts = file.metadata() or {}
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}") from error
    return parse_header(texts, schema, path)


def parse_header(texts: Mapping[str, str], schema: type[H], path: Path) -> H:
    """Parse a header's texts as a document.

    Raises:
        ModelError: a text is not JSON within the limits, or does not fit the schema.
    """
    data: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            data[name] = bounded_json(text)
        except ValueError as error:
            raise ModelError(f"{path} is damaged: {name[:60]} in its header: {error}") from None
    return schema.of(data, str(path))
