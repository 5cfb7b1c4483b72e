"""Safetensors files: written atomically, checked against the header and the expected tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from apq.errors import ModelError
from apq.files import sealed, to_json, whole
from apq.files.headers import Header, parse_header

H = TypeVar("H", bound=Header)


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Hash of named tensors, independent of where they are stored."""
    h = hashlib.sha256()
    for name in sorted(state):
        h.update(name.encode())
        h.update(_bytes(state[name]))
    return h.hexdigest()[:16]


def tensors_hash(state: Mapping[str, Tensor]) -> str:
    """As :func:`weights_hash`, but of types and shapes as well."""
    h = hashlib.sha256()
    for name in sorted(state):
        h.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}\n".encode())
        h.update(_bytes(state[name]))
    return h.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    data: bytes = tensor.detach().cpu().contiguous().numpy().tobytes()
    return data


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write safetensors atomically. Metadata values become JSON.

    Raises:
        ModelError: the file cannot be written (no space, no permission); an older one is kept.
    """
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    said = sealed({**metadata, "tensors": tensors_hash(plain)})
    try:
        with whole(path) as partial:
            save_file(plain, str(partial), metadata={k: to_json(v) for k, v in said.items()})
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot write {path}: {error}") from error


def load_tensors(path: Path, schema: type[H]) -> tuple[dict[str, Tensor], H]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        ModelError: missing, truncated, damaged, or another kind of file.
    """
    tensors, texts = read_tensors(path, schema.what)
    header = parse_header(texts, schema, path)
    for told, found in ((header.tensors, tensors_hash), (header.hash, weights_hash)):
        if told is not None and told != found(tensors):
            raise ModelError(
                f"{path} is damaged: its weights have the hash {found(tensors)}, {told} was stored "
                "with them. Make it again, or take another copy."
            )
    return tensors, header


def read_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and the texts of its header, unchecked.

    Args:
        path: The file.
        what: What it should be, for messages: ``"a supernet as apq train-supernet writes it"``.

    Raises:
        ModelError: missing, truncated, or not a safetensors file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a readable safetensors file: {error}. Needed: {what}"
        ) from error


def require_tensors(
    where: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Raise unless the tensors have the names, shapes and types of ``expected`` (which may be on
    the meta device).

    Raises:
        ModelError: names the first tensor that is missing, unexpected, or of another shape or type.
    """
    for name, want in expected.items():
        if name not in tensors:
            raise ModelError(f"{where} lacks the tensor {name}, {_form(want)}")
        if _form(tensors[name]) != _form(want):
            raise ModelError(
                f"{where}: the tensor {name} is {_form(tensors[name])}, must be {_form(want)}"
            )
    for name in tensors:
        if name not in expected:
            raise ModelError(f"{where} has a tensor {name[:60]!r}, which belongs to nothing in it")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
