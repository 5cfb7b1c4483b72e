"""Image sets: where they come from and how they are split.

Three sources: scikit-learn's digits (embedded), Parquet in the Hugging Face image layout, and
directories with one folder per class. Images are decoded once to uint8 and kept in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ImagesError

SPLITS = ("train", "calibration", "validation", "test")
_SPLIT_SEED = 20200615  # fixed: a split never depends on a command's --seed
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"}

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Decoded images in four fixed splits.

    ``validation`` is cut from the training images and shares none with ``train``;
    ``calibration`` is a fixed sample *of* ``train`` (statistics need no unseen images); ``test``
    is the source's own test part, or a fixed 20 % where it has none.

    Attributes:
        name: What was read, for metadata.
        splits: Per split uint8 images ``(n, side, side, channels)`` and labels ``(n,)``.
        classes: Class names by label.
        flip: Whether a mirrored image is still a valid example of its class.
    """

    name: str
    splits: dict[str, tuple[Pixels, Labels]] = field(repr=False)
    classes: tuple[str, ...]
    flip: bool = True

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the calibration images per channel, on the 0..1 scale."""
        images = self.splits["calibration"][0]
        return tuple(float(v) for v in (images.mean(axis=(0, 1, 2)) / 255).round(4))

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the calibration images per channel, on the 0..1 scale."""
        images = self.splits["calibration"][0]
        return tuple(float(v) for v in np.maximum(images.std(axis=(0, 1, 2)) / 255, 1e-3).round(4))

    def digest(self) -> str:
        """Hash of all pixels and labels, 16 hex digits: equal sets have equal digests."""
        h = hashlib.sha256()
        for split in SPLITS:
            for array in self.splits[split]:
                h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()[:16]

    def describe(self) -> str:
        """One line with the number of images per split."""
        sizes = ", ".join(f"{split} {len(self.splits[split][1]):,}" for split in SPLITS)
        return f"{self.name}: {len(self.classes)} classes, {sizes}"


def load_images(source: str, side: int, channels: int, classes: int | None = None) -> ImageSet:
    """Read an image set.

    Args:
        source: ``digits``; a Parquet file or a folder of them (columns ``image`` with ``bytes``,
            and ``label``; files with ``test`` in their name are the test part); or a directory
            with one folder per class (optionally below ``train/`` and ``test/``).
        side: Height and width to give the images, in pixels; others are resized (bilinear).
        channels: 1 (grey) or 3 (RGB).
        classes: How many classes the network tells apart; checked if given.

    Raises:
        ImagesError: nothing usable there; the message says what was looked for.
    """
    if channels not in (1, 3):
        raise ImagesError(f"images have 1 or 3 channels, the space asks for {channels}")
    if source == "digits":
        found = _digits(side, channels)
    else:
        path = Path(source)
        if not path.exists():
            raise ImagesError(
                f"no images at {source!r}. Give 'digits', a Parquet file or folder "
                "(columns image.bytes and label), or a directory with one folder per class."
            )
        files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
        found = _parquet(files, path, side, channels) if files else _folders(path, side, channels)
    if classes is not None and len(found.classes) != classes:
        raise ImagesError(
            f"{found.name} has {len(found.classes)} classes, the space has {classes}. "
            f"Set classes = {len(found.classes)} in the space's TOML file, or use another set."
        )
    return found


def _split(
    name: str,
    train: tuple[Pixels, Labels],
    test: tuple[Pixels, Labels] | None,
    classes: tuple[str, ...],
    flip: bool,
) -> ImageSet:
    """Cut validation (and, if need be, test) from the training part with a fixed seed."""
    images, labels = train
    rng = np.random.default_rng(_SPLIT_SEED)
    order = rng.permutation(len(labels))
    if test is None:
        cut = len(order) // 5
        test = images[order[:cut]], labels[order[:cut]]
        order = order[cut:]
    count = min(5000, max(len(order) // 10, min(len(order) // 4, 1000), 1))
    held, rest = np.sort(order[:count]), np.sort(order[count:])
    calibration = np.sort(rng.permutation(rest)[: min(2000, max(1, len(rest) // 4))])
    if len(rest) < 2 or len(test[1]) < 1:
        raise ImagesError(f"{name} has only {len(labels)} training images; at least 10 are needed")
    parts = {"train": rest, "calibration": calibration, "validation": held}
    splits = {key: (images[index], labels[index]) for key, index in parts.items()}
    return ImageSet(name, splits | {"test": test}, classes, flip)


def _digits(side: int, channels: int) -> ImageSet:
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = (data.images * 255 / 16).round().astype(np.uint8)
    if side != 8:
        from PIL import Image

        grey = np.stack(
            [
                np.asarray(Image.fromarray(g).resize((side, side), Image.Resampling.BILINEAR))
                for g in grey
            ]
        )
    images = np.repeat(grey[..., None], channels, axis=3)
    names = tuple(str(n) for n in data.target_names)
    return _split("digits", (images, data.target.astype(np.int64)), None, names, flip=False)


def _decode(data: bytes | Path, where: str, side: int, channels: int) -> Pixels:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            image = file.convert("RGB" if channels == 3 else "L")
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.BILINEAR)
            return np.asarray(image, dtype=np.uint8).reshape(side, side, channels)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ImagesError(f"{where} is not an image that can be decoded: {error}") from error


def _decode_all(
    items: Sequence[bytes | Path], names: Iterable[str], side: int, channels: int
) -> Pixels:
    """Decode in threads (Pillow releases the interpreter lock while decoding)."""
    out = np.empty((len(items), side, side, channels), dtype=np.uint8)

    def one(job: tuple[int, bytes | Path, str]) -> None:
        out[job[0]] = _decode(job[1], job[2], side, channels)

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(one, zip(range(len(items)), items, names, strict=False), chunksize=256))
    return out


def _parquet(files: list[Path], path: Path, side: int, channels: int) -> ImageSet:
    train = [f for f in files if "test" not in f.stem.lower()]
    test = [f for f in files if "test" in f.stem.lower()]
    if not train:
        raise ImagesError(
            f"{path} has only test files; a file without 'test' in its name is needed"
        )
    label_names: tuple[str, ...] = ()
    parts = []
    for group in (train, test):
        images, labels = [], []
        for file in group:
            pixels, numbers, names = _read_parquet(file, side, channels)
            images.append(pixels)
            labels.append(numbers)
            label_names = label_names or names
        parts.append((np.concatenate(images), np.concatenate(labels)) if images else None)
    assert parts[0] is not None
    most = max(int(labels.max()) for _, labels in filter(None, parts))
    names = label_names or tuple(str(i) for i in range(most + 1))
    if most >= len(names):
        raise ImagesError(
            f"{path}: label {most} has no name; the schema lists {len(names)} classes"
        )
    return _split(path.name, parts[0], parts[1], names, flip=True)


def _read_parquet(file: Path, side: int, channels: int) -> tuple[Pixels, Labels, tuple[str, ...]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ImagesError(f"{file} is not a readable Parquet file: {error}") from error
    columns = set(table.column_names)
    image = table.schema.field("image").type if "image" in columns else pa.null()
    if (
        "label" not in columns
        or not pa.types.is_struct(image)
        or image.get_field_index("bytes") < 0
    ):
        raise ImagesError(
            f"{file} must have columns 'image' (struct with 'bytes') and 'label'; it has "
            f"{', '.join(sorted(columns))}"
        )
    if table.num_rows == 0:
        raise ImagesError(f"{file} has no rows")
    labels = table["label"].to_numpy().astype(np.int64)
    if table["label"].null_count or labels.min() < 0:
        raise ImagesError(f"{file}: labels must be 0 or more and never missing")
    blobs: list[Any] = []
    for chunk in table["image"].chunks:
        blobs.extend(chunk.field("bytes").to_pylist())
    if any(b is None for b in blobs):
        raise ImagesError(f"{file}: image.bytes is missing in row {blobs.index(None)}")
    pixels = _decode_all(blobs, (f"{file} row {i}" for i in range(len(blobs))), side, channels)
    return pixels, labels, _class_names(table.schema.metadata)


def _class_names(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
    """Class names from the schema metadata Hugging Face writes; empty where there are none."""
    try:
        info = json.loads((metadata or {})[b"huggingface"])
        return tuple(str(n) for n in info["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _folders(path: Path, side: int, channels: int) -> ImageSet:
    roots = {"train": path / "train", "test": path / "test"}
    if not roots["train"].is_dir():
        roots = {"train": path, "test": Path()}
    classes = tuple(sorted(d.name for d in roots["train"].iterdir() if d.is_dir()))
    if not classes:
        raise ImagesError(f"{path} holds neither Parquet files nor one folder per class")
    parts: dict[str, tuple[Pixels, Labels] | None] = {}
    for part, root in roots.items():
        files: list[bytes | Path] = []
        labels: list[int] = []
        for number, name in enumerate(classes):
            found = sorted(
                f for f in (root / name).glob("*") if f.suffix.lower() in _SUFFIXES
            ) if part == "train" or root != Path() else []  # fmt: skip
            files.extend(found)
            labels.extend([number] * len(found))
        pixels = _decode_all(files, (str(f) for f in files), side, channels) if files else None
        parts[part] = None if pixels is None else (pixels, np.array(labels, dtype=np.int64))
    if parts["train"] is None:
        raise ImagesError(
            f"no images ({', '.join(sorted(_SUFFIXES))}) in the class folders of {path}"
        )
    return _split(path.name, parts["train"], parts["test"], classes, flip=True)
