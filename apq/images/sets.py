"""Image sets and their fixed splits.

Three sources: scikit-learn's digits (embedded), Parquet in the Hugging Face image layout, and
directories with one folder per class. Images are decoded once to uint8 and kept in memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ImagesError, ModelError
from apq.images import folders, parquet
from apq.images.decode import Pixels
from apq.images.labels import Labels, Named, one_list, renumbered

SPLITS = ("train", "calibration", "validation", "test")
_SPLIT_SEED = 20200615  # fixed: a split never depends on a command's --seed

Part = tuple[Pixels, Labels]


@dataclass(frozen=True)
class ImageSet:
    """Decoded images in four fixed splits.

    ``validation`` is the source's own validation part, or cut from the training images, and shares
    none with ``train``; ``calibration`` is a fixed sample *of* ``train`` (statistics need no unseen
    images); ``test`` is the source's own test part, or a fixed 20 % where it has none.

    Attributes:
        name: What was read, for metadata.
        splits: Per split uint8 images ``(n, side, side, channels)`` and labels ``(n,)``.
        classes: Class names by label.
        flip: Whether a mirrored image is still a valid example of its class.
        notes: What a user should know of how the source was read, a line each.
    """

    name: str
    splits: dict[str, Part] = field(repr=False)
    classes: tuple[str, ...]
    flip: bool = True
    notes: tuple[str, ...] = ()

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
        """One line with the number of images per split, and the notes."""
        sizes = ", ".join(f"{split} {len(self.splits[split][1]):,}" for split in SPLITS)
        return "\n".join([f"{self.name}: {len(self.classes)} classes, {sizes}", *self.notes])


def load_images(source: str, side: int, channels: int, classes: int | None = None) -> ImageSet:
    """Read an image set.

    Args:
        source: ``digits``; a Parquet file, a folder of them or of folders with them (a column of
            pictures and one of labels; ``test`` and ``validation`` as words in a name say what is
            no training part), where ``SOURCE::image=COLUMN,label=COLUMN`` chooses one or both of
            the columns; or a directory with one folder per class (optionally below ``train/``,
            ``val/`` and ``test/``).
        side: Height and width to give the images, in pixels; others are resized (bilinear).
        channels: 1 (grey) or 3 (RGB).
        classes: How many classes the network tells apart; checked if given.

    Raises:
        ImagesError: nothing usable there; the message says what was looked for, and names the file
            and row of what cannot be read.

    Example:
        >>> import apq
        >>> images = apq.load_images("digits", side=8, channels=1)
        >>> pixels, labels = images.splits["test"]
        >>> pixels.shape, pixels.dtype, labels.shape
        ((359, 8, 8, 1), dtype('uint8'), (359,))
    """
    if channels not in (1, 3):
        raise ImagesError(f"images have 1 or 3 channels, the space asks for {channels}")
    if source == "digits":
        found = _digits(side, channels)
    else:
        place, columns = chosen_columns(source)
        path = Path(place)
        if columns and place == "digits":
            raise ImagesError("'digits' has no columns to choose; give --images digits")
        if not path.is_file() and not path.is_dir():
            raise ImagesError(
                f"no images at {place!r}. Give 'digits', a Parquet file or folder "
                "(columns image.bytes and label), or a directory with one folder per class."
            )
        files = parquet.find_files(path)
        if files:
            found = _parquet(files, path, side, channels, columns)
        elif columns:
            raise ImagesError(f"{place} holds no Parquet files, so it has no columns to choose")
        else:
            found = _folders(path, side, channels)
    if classes is not None and len(found.classes) != classes:
        raise ImagesError(
            f"{found.name} has {len(found.classes)} classes, the space has {classes}. "
            f"Set classes = {len(found.classes)} in the space's TOML file, or use another set."
        )
    return found


COLUMNS = ("image", "label")
"""What columns of a Parquet file can be chosen for."""


def chosen_columns(source: str) -> tuple[str, dict[str, str]]:
    """Take ``PATH::image=COLUMN,label=COLUMN`` apart: the path, and the columns that are chosen.

    A source that exists as it stands is a path.

    Raises:
        ImagesError: what follows ``::`` chooses no columns.
    """
    place, mark, text = source.rpartition("::")
    if not mark or Path(source).exists():
        return source, {}
    columns: dict[str, str] = {}
    for pair in text.split(","):
        role, equals, name = (part.strip() for part in pair.partition("="))
        if role not in COLUMNS or not equals or not name or role in columns:
            raise ImagesError(
                f"{source!r} chooses columns by {pair!r}; write them as "
                f"{place}::image=COLUMN,label=COLUMN, or one of the two"
            )
        columns[role] = name
    return place, columns


def require_same_images(made_of: Mapping[str, Any], images: ImageSet, what: str) -> None:
    """Raise unless ``images`` are those that something was made of.

    Args:
        made_of: Metadata with ``images`` (a digest, or a table with ``digest`` and ``name``) and
            ``image_set`` (a name). Metadata without a digest raises nothing.
        images: What is to be used with it.
        what: What to call it in the message.

    Raises:
        ModelError: they are others.
    """
    told = made_of.get("images")
    known = told.get("digest") if isinstance(told, Mapping) else told
    name = told.get("name") if isinstance(told, Mapping) else made_of.get("image_set")
    if known and known != images.digest():
        raise ModelError(
            f"{what} was made with the images {name or 'of another set'} ({known}), these are "
            f"{images.name} ({images.digest()}): accuracies would say nothing. Give its own "
            "images with --images, or --other-images if you mean these."
        )


def _assemble(
    name: str,
    parts: dict[str, list[tuple[Pixels, Named]]],
    flip: bool = True,
    notes: tuple[str, ...] = (),
) -> ImageSet:
    """One image set of what was read of each part, classes matched by name."""
    classes = one_list([named for _, named in parts["train"]])
    if len(classes) < 2:
        raise ImagesError(
            f"{name} has one class, {', '.join(classes)}; there is nothing to tell apart"
        )
    joined: dict[str, Part] = {}
    for part, found in parts.items():
        labels = [renumbered(named, classes, part) for _, named in found]
        joined[part] = np.concatenate([pixels for pixels, _ in found]), np.concatenate(labels)
        absent = sorted(set(range(len(classes))) - set(np.unique(joined[part][1]).tolist()))
        if absent:
            missing = ", ".join(classes[i] for i in absent[:5])
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes = (*notes, f"note: the {part} part has no image of {missing}{more}")
    return _split(name, joined, classes, flip, notes)


def _split(
    name: str,
    parts: Mapping[str, Part],
    classes: tuple[str, ...],
    flip: bool,
    notes: tuple[str, ...] = (),
) -> ImageSet:
    """Cut validation and test from the training part, unless the source has them, by a fixed seed.

    A class of three or more images is in every part that is cut.
    """
    images, labels = parts["train"]
    rng = np.random.default_rng(_SPLIT_SEED)
    order = rng.permutation(len(labels))
    cut: dict[str, NDArray[np.intp]] = {}
    if "test" not in parts:
        count = len(order) // 5
        cut["test"], order = order[:count], order[count:]
    if "validation" not in parts:
        count = min(5000, max(len(order) // 10, min(len(order) // 4, 1000), 1))
        cut["validation"], order = order[:count], order[count:]
    cut["train"] = order
    _share_rare_classes(cut, labels)
    rest = np.sort(cut["train"])
    cut["train"] = rest
    if "validation" in cut:
        cut["validation"] = np.sort(cut["validation"])
    cut["calibration"] = np.sort(rng.permutation(rest)[: min(2000, max(1, len(rest) // 4))])
    splits = dict(parts) | {key: (images[index], labels[index]) for key, index in cut.items()}
    if len(rest) < 2 or any(len(splits[split][1]) < 1 for split in SPLITS):
        raise ImagesError(f"{name} has only {len(labels)} training images; at least 10 are needed")
    return ImageSet(name, {split: splits[split] for split in SPLITS}, classes, flip, notes)


def _share_rare_classes(cut: dict[str, NDArray[np.intp]], labels: Labels) -> None:
    """Give a part that lacks a class one of its images from the part that has most of them, in
    place; only of classes with as many images as there are parts."""
    counts = np.bincount(labels)
    for label in np.flatnonzero(counts >= len(cut)):
        for part in cut:
            if not np.any(labels[cut[part]] == label):
                giver = max(cut, key=lambda p: int(np.sum(labels[cut[p]] == label)))
                at = int(np.flatnonzero(labels[cut[giver]] == label)[0])
                cut[part] = np.append(cut[part], cut[giver][at])
                cut[giver] = np.delete(cut[giver], at)


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
    return _split("digits", {"train": (images, data.target.astype(np.int64))}, names, flip=False)


def _parquet(
    files: list[Path], path: Path, side: int, channels: int, columns: Mapping[str, str]
) -> ImageSet:
    where = {file: parquet.file_part(file, path) for file in files}
    if "train" not in where.values():
        others = " and ".join(sorted(set(where.values())))
        raise ImagesError(
            f"{path} has only {others} files; a file without such a word in its name is needed"
        )
    parts: dict[str, list[tuple[Pixels, Named]]] = {}
    for file, part in where.items():
        read = parquet.read_file(file, side, channels, columns, str(path))
        parts.setdefault(part, []).append(read)
    chosen = ",".join(f"{role}={name}" for role, name in sorted(columns.items()))
    return _assemble(f"{path.name}::{chosen}" if chosen else path.name, parts)


def _folders(path: Path, side: int, channels: int) -> ImageSet:
    parts: dict[str, list[tuple[Pixels, Named]]] = {}
    skipped: Counter[str] = Counter()
    for part, root in folders.find_parts(path).items():
        pixels, named, left = folders.read_part(root, side, channels)
        parts[part] = [(pixels, named)]
        skipped += left
    notes: tuple[str, ...] = ()
    if skipped:
        told = ", ".join(f"{suffix} {n}" for suffix, n in skipped.most_common(8))
        notes = (f"note: skipped {skipped.total()} files that are no pictures ({told})",)
    return _assemble(path.name, parts, notes=notes)
