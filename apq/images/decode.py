"""Decode pictures of any kind to 8 bits per channel, or refuse them in words."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ImagesError
from apq.space.layer import Size, both

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Pixels = NDArray[np.uint8]

MOST_BYTES = 32 * 2**30
"""Decoded images of one part that are held in memory at most."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held; 1: upright."""
BACKGROUND = (255, 255, 255, 255)
"""What transparent pixels are laid over: white."""


def decode_all(
    items: Sequence[bytes | Path],
    names: Iterable[str],
    size: Size,
    channels: int,
    fit: str = "squash",
) -> Pixels:
    """Decode pictures in threads (Pillow releases the interpreter lock while decoding).

    Args:
        items: Encoded pictures, or paths of files that hold one.
        names: What to call each in messages.
        size: Height and width to give them, in pixels; others are resized (bilinear).
        channels: 1 (grey) or 3 (RGB).
        fit: Key of ``FITS``.

    Returns:
        Shape ``(len(items), height, width, channels)``.

    Raises:
        ImagesError: one cannot be decoded, or all together would not fit into memory.
    """
    height, width = both(size)
    taken = len(items) * height * width * channels
    if taken > MOST_BYTES:
        raise ImagesError(
            f"{len(items):,} images of {height} x {width} x {channels} take {taken / 2**30:.0f} "
            f"GiB in memory, the limit is {MOST_BYTES / 2**30:.0f}. Use fewer, or a smaller "
            "resolution."
        )
    out = np.empty((len(items), height, width, channels), dtype=np.uint8)

    def one(job: tuple[int, bytes | Path, str]) -> None:
        out[job[0]] = decode(job[1], job[2], size, channels, fit)

    from PIL import Image

    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=4) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        list(pool.map(one, zip(range(len(items)), items, names, strict=False), chunksize=256))
    return out


def decode(
    data: bytes | Path, where: str, size: Size, channels: int, fit: str = "squash"
) -> Pixels:
    """One picture, ``(height, width, channels)``; upright, its first frame, without transparency.

    Args:
        data: It, encoded, or the path of a file that holds it.
        where: What to call it in messages.
        size: Height and width to give it, in pixels.
        channels: 1 (grey) or 3 (RGB).
        fit: Key of ``FITS``.

    Raises:
        ImagesError: it cannot be decoded, has a range of values that is not known, or has more
            pixels than Pillow's limit.
    """
    height, width = both(size)
    image = FITS[fit](opened(data, where, channels), height, width)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def _squash(image: Picture, height: int, width: int) -> Picture:
    """All of it, whatever its proportions were."""
    from PIL import Image

    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _crop(image: Picture, height: int, width: int) -> Picture:
    """The middle: 7/8 of the largest box of the wanted proportions, for a square of the shorter
    side, as networks for photographs are evaluated."""
    from PIL import Image

    wide, high = image.size
    across = min(wide, high * width / height) * 7 / 8
    down = min(high, wide * height / width) * 7 / 8
    left, top = (wide - across) / 2, (high - down) / 2
    box = (left, top, left + across, top + down)
    return image.resize((width, height), Image.Resampling.BILINEAR, box)


FITS: dict[str, Callable[[Any, int, int], Any]] = {"squash": _squash, "crop": _crop}
"""How a picture of other proportions becomes one of a given height and width."""


def opened(data: bytes | Path, where: str, channels: int) -> Picture:
    """A picture in 8 bits per channel, upright, its first frame, without transparency.

    Args:
        data, where, channels: As in :func:`decode`.

    Raises:
        ImagesError: as :func:`decode`.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(data, Path) and not data.is_file():
        raise ImagesError(f"{where} is not a file that can be read")
    if not (data if isinstance(data, bytes) else data.stat().st_size):
        raise ImagesError(f"{where} is empty: a picture of 0 bytes")
    mode = "RGB" if channels == 3 else "L"
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            return _flat(_upright(file), mode, where)
    except ImagesError:
        raise
    except UnidentifiedImageError as error:
        raise ImagesError(
            f"{where} is not an image that can be decoded: it is of no kind that Pillow reads"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImagesError(f"{where} is too large to decode: {error}") from error
    except Exception as error:  # decoders raise whatever damaged data leads them to
        why = str(error) or type(error).__name__
        raise ImagesError(f"{where} is not an image that can be decoded: {why}") from error


def _upright(image: Picture) -> Picture:
    """Turned as its EXIF orientation says; EXIF data that cannot be read says nothing."""
    from PIL import ImageOps

    image.load()
    try:
        if image.getexif().get(ORIENTATION, 1) == 1:
            return image
        return ImageOps.exif_transpose(image) or image
    except Exception:  # a broken tag raises whatever its bytes lead to
        return image


def _flat(image: Picture, mode: str, where: str) -> Picture:
    """In 8 bits per channel, transparent pixels laid over ``BACKGROUND``."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint16)
        high = (wide >> 8).astype(np.uint8)
        high[wide == image.info.get("transparency", -1)] = BACKGROUND[0]
        image = Image.fromarray(high)
    elif image.mode in ("I", "F"):
        kind = "whole numbers" if image.mode == "I" else "fractions"
        raise ImagesError(
            f"{where} holds 32-bit {kind}, whose black and white are not known. Convert it to 8 or "
            "16 bits per channel."
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, BACKGROUND), above)
    return image if image.mode == mode else image.convert(mode)
