"""What encoded pictures are, by their beginnings and ends, and which cannot be used."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apq.images.decode import ORIENTATION

Seen = tuple[NDArray[np.uint64], list[str], list[tuple[str, ...]]]
"""Hashes of contents; why each cannot be used (empty: it can); what is unusual about each."""


Item = bytes | Path | tuple[Path, int, int]
"""An encoded picture: its bytes, its file, or a file with offset and length in it."""


def encoded(item: Item) -> bytes:
    """The bytes of a picture.

    Raises:
        OSError: its file cannot be read.
    """
    if isinstance(item, bytes):
        return item
    if isinstance(item, Path):
        return item.read_bytes()
    path, offset, size = item
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def content_hash(data: bytes) -> int:
    """A number of 64 bits that equal pictures have in common, by their bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def inspect_all(items: Sequence[Item]) -> Seen:
    """Look at encoded pictures without decoding them.

    Returns:
        Per picture a hash of its bytes, why it cannot be used, and what is unusual about it.
    """
    hashes = np.zeros(len(items), dtype=np.uint64)
    wrong: list[str] = []
    unusual: list[tuple[str, ...]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow: what it warns of is counted here
        for i, item in enumerate(items):
            try:
                data = encoded(item)
            except OSError:
                data = b""
            hashes[i] = content_hash(data)
            problem, traits = inspect(data)
            wrong.append(problem)
            unusual.append(traits)
    return hashes, wrong, unusual


def inspect(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Why an encoded picture cannot be used (empty: it can), and what is unusual about it.

    Example:
        >>> inspect(b"GIF89a")
        ('no picture that Pillow reads', ())
        >>> inspect(b"")
        ('empty', ())
    """
    from PIL import Image

    if not data:
        return "empty", ()
    most = Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, (wide, high) = image.mode, image.size
            if _truncated(data, image.format or ""):
                return "truncated", ()
            turned = image.getexif().get(ORIENTATION, 1) not in (0, 1)
            clear = mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    except Image.DecompressionBombError:
        return "too many pixels", ()
    except Exception:  # decoders raise whatever damaged data leads them to
        return "no picture that Pillow reads", ()
    if most is not None and wide * high > most:
        return "too many pixels", ()
    if mode in ("I", "F"):
        return "32 bits per channel", ()
    named = {
        "grey": mode in ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L"),
        "CMYK": mode == "CMYK",
        "transparent": clear,
        "turned by EXIF": turned,
    }
    return "", tuple(name for name, found in named.items() if found)


def _truncated(data: bytes, kind: str) -> bool:
    """Whether the mark that ends a file of this kind is missing."""
    if kind in ("JPEG", "MPO"):
        return b"\xff\xd9" not in data[-4096:]
    if kind == "PNG":
        return b"IEND" not in data[-4096:]
    if kind == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False
