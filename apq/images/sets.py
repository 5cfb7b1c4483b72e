"""Image sets and their fixed splits.

Four sources: scikit-learn's digits (embedded; plain, or drawn into clutter), Parquet in the Hugging
Face image layout, tar files as WebDataset writes them, and directories with one folder per class.
Images of up to :data:`MEMORY` bytes are decoded once and kept in memory; larger sets are decoded as
they are needed (:class:`apq.images.streamed.Streamed`), behind the same interface.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ImagesError, ModelError, choose
from apq.images import digits
from apq.images.decode import FITS, Pixels, decode_all
from apq.images.gather import Gathered, gather
from apq.images.inspect import content_hash, encoded
from apq.images.labels import Labels, one_list, renumbered
from apq.images.streamed import Pictures, Streamed
from apq.space.layer import Size, both, size_of

SPLITS = ("train", "calibration", "validation", "test")
_SPLIT_SEED = 20200615  # fixed: a split never depends on a command's --seed

Part = tuple[Pictures, Labels]

MEMORY = int(float(os.environ.get("APQ_IMAGES_GIB", 1)) * 2**30)
"""Decoded images that are kept in memory, in bytes; sets that take more are streamed. The
environment variable ``APQ_IMAGES_GIB`` sets it."""


@dataclass(frozen=True)
class ImageSet:
    """Decoded images in four fixed splits.

    ``validation`` is the source's own validation part, or cut from the training images, and shares
    none with ``train``; ``calibration`` is a fixed sample *of* ``train`` (statistics need no unseen
    images); ``test`` is the source's own test part, or a fixed 20 % where it has none.

    Attributes:
        name: What was read, for metadata.
        splits: Per split uint8 images ``(n, height, width, channels)``, an array or a ``Streamed``,
            and labels ``(n,)``.
        classes: Class names by label.
        flip: Whether a mirrored image is still a valid example of its class.
        notes: What a user should know of how the source was read, a line each.
        content: Hash of a set that is not in memory.
    """

    name: str
    splits: dict[str, Part] = field(repr=False)
    classes: tuple[str, ...]
    flip: bool = True
    notes: tuple[str, ...] = ()
    content: str | None = None

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of the calibration images per channel, on the 0..1 scale."""
        return tuple(float(v) for v in (self._moments[0] / 255).round(4))

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the calibration images per channel, on the 0..1 scale."""
        return tuple(float(v) for v in np.maximum(self._moments[1] / 255, 1e-3).round(4))

    @cached_property
    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        images = self.splits["calibration"][0]
        if _many(images):
            return _moments(images)
        return images[:].mean(axis=(0, 1, 2)), images[:].std(axis=(0, 1, 2))

    def digest(self) -> str:
        """Hash of all pixels and labels, 16 hex digits: equal sets have equal digests. Of a set
        that is streamed, of the encoded pictures of each split, whatever their order."""
        if self.content is not None:
            return self.content
        h = hashlib.sha256()
        for split in SPLITS:
            for array in self.splits[split]:
                h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()[:16]

    def describe(self) -> str:
        """One line with the number of images per split, and the notes."""
        sizes = ", ".join(f"{split} {len(self.splits[split][1]):,}" for split in SPLITS)
        return "\n".join([f"{self.name}: {len(self.classes)} classes, {sizes}", *self.notes])


def load_images(
    source: str, side: Size, channels: int, classes: int | None = None, memory: int = MEMORY
) -> ImageSet:
    """Read an image set.

    Args:
        source: ``digits``; ``digits-clutter``, the same drawn several times each, harder
            (:func:`apq.images.digits.cluttered`); a Parquet file, a folder of them or of folders
            with them (a column of pictures and one of labels; ``test`` and ``validation`` as words
            in a name say what is no training part); tar files likewise, a picture and a label of
            each name; or a directory with one folder per class (optionally below ``train/``,
            ``val/`` and ``test/``). What follows ``::`` chooses:
            ``SOURCE::image=COLUMN,label=COLUMN`` columns of Parquet files, ``fit=crop`` the middle
            of each picture instead of all of it squashed into the size, ``split=content`` a split
            by the contents of pictures, not by their order (streamed sets are always split so),
            ``mirror=no`` that training mirrors no image.
        side: Height and width to give the images, in pixels (``Space.image_size``): one number, or
            a pair; others are resized (bilinear).
        channels: 1 (grey) or 3 (RGB).
        classes: How many classes the network tells apart; checked if given.
        memory: Bytes that decoded images may take in memory; larger sets are streamed. In memory,
            a picture that cannot be decoded is an error; streamed sets leave it out and say so.

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
    side = size_of(side)
    if source in EMBEDDED:
        found = EMBEDDED[source](side, channels)
    else:
        place, chosen = chosen_columns(source)
        path = Path(place)
        fit = choose(chosen.pop("fit", "squash"), FITS, "fit")
        split = choose(chosen.pop("split", "order"), ("order", "content"), "split")
        mirror = choose(chosen.pop("mirror", "yes"), ("yes", "no"), "mirror")
        if chosen and place in EMBEDDED:
            raise ImagesError(f"{place!r} has no columns to choose; give --images {place}")
        if not path.is_file() and not path.is_dir():
            known = ", ".join(map(repr, EMBEDDED))
            raise ImagesError(
                f"no images at {place!r}. Give {known}, a Parquet file or folder "
                "(columns image.bytes and label), tar files, or a directory with one folder per "
                "class."
            )
        parts, notes = gather(path, chosen)
        told = {**chosen, **({"fit": fit} if fit != "squash" else {})}
        told |= {"split": split} if split != "order" else {}
        told |= {"mirror": mirror} if mirror != "yes" else {}
        words = ",".join(f"{role}={name}" for role, name in sorted(told.items()))
        name = f"{path.name}::{words}" if words else path.name
        count = sum(part.count for part in parts.values())
        how = side, channels, fit
        if count * math.prod(both(side)) * channels > memory:
            found = _streamed(name, parts, how, notes)
        else:
            found = _in_memory(name, parts, how, notes, split == "content")
        if mirror == "no":
            found = _upright(found)
    if classes is not None and len(found.classes) != classes:
        raise ImagesError(
            f"{found.name} has {len(found.classes)} classes, the space has {classes}. "
            f"Set classes = {len(found.classes)} in the space's TOML file, or use another set."
        )
    return found


COLUMNS = ("image", "label", "fit", "split", "mirror")
"""What can be chosen behind ``::``: columns of a Parquet file, how pictures get their size, and by
what they are split."""


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
                f"{place}::image=COLUMN,label=COLUMN, or one of them (or fit=crop, split=content, "
                "mirror=no)"
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


def _many(images: Pictures) -> bool:
    """Whether numpy's own mean and deviation would take much memory: 8 bytes for each of theirs."""
    return isinstance(images, Streamed) or math.prod(images.shape) > 2**25


def _moments(images: Pictures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation per channel, 0..255, a few images at a time."""
    channels = images.shape[3]
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(images), 64):
        pixels = images[start : start + 64].astype(np.float64)
        total += pixels.sum(axis=(0, 1, 2))
        squares += (pixels**2).sum(axis=(0, 1, 2))
    count = math.prod(images.shape[:3])
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))


def _upright(images: ImageSet) -> ImageSet:
    """A set whose mirrored images are no examples of their class; as another set, so that no later
    command mirrors them unasked."""
    digest = hashlib.sha256(f"{images.digest()} mirror=no".encode()).hexdigest()[:16]
    return replace(images, flip=False, content=digest)


How = tuple[Size, int, str]
"""Height and width, channels and fit of images."""


def _labels(
    name: str, parts: Mapping[str, Gathered]
) -> tuple[tuple[str, ...], dict[str, Labels], tuple[str, ...]]:
    """Classes, labels per part matched by name, and notes of what is absent."""
    classes = one_list(parts["train"].named)
    if len(classes) < 2:
        raise ImagesError(
            f"{name} has one class, {', '.join(classes)}; there is nothing to tell apart"
        )
    joined, notes = {}, []
    for part, found in parts.items():
        labels = [renumbered(named, classes, part) for named in found.named]
        joined[part] = np.concatenate(labels)
        absent = sorted(set(range(len(classes))) - set(np.unique(joined[part]).tolist()))
        if absent:
            missing = ", ".join(classes[i] for i in absent[:5])
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes.append(f"note: the {part} part has no image of {missing}{more}")
    return classes, joined, tuple(notes)


def _in_memory(
    name: str, parts: Mapping[str, Gathered], how: How, notes: tuple[str, ...], contents: bool
) -> ImageSet:
    """Everything decoded; split by contents, or by order."""
    side, channels, fit = how
    pixels, hashes = {}, {}
    for part, found in parts.items():
        items = found.source.read(np.arange(found.count))
        data = [encoded(item) if isinstance(item, tuple) else item for item in items]
        pixels[part] = decode_all(data, map(found.where, range(found.count)), side, channels, fit)
        if contents:
            hashes[part] = np.array([content_hash(encoded(item)) for item in data], dtype=np.uint64)
    classes, labels, more = _labels(name, parts)
    whole = {part: (pixels[part], labels[part]) for part in parts}
    if contents:
        return _cut(name, whole, hashes, classes, how, (*notes, *more))
    return _split(name, whole, classes, True, (*notes, *more))


def _streamed(
    name: str, parts: Mapping[str, Gathered], how: How, notes: tuple[str, ...]
) -> ImageSet:
    """Everything left where it is, but for pictures that cannot be used."""
    classes, labels, more = _labels(name, parts)
    wrong: Counter[str] = Counter()
    unusual: Counter[str] = Counter()
    whole: dict[str, Part] = {}
    hashes: dict[str, NDArray[np.uint64]] = {}
    for part, found in parts.items():
        seen, bad, traits = found.inspected()
        good = np.array([not problem for problem in bad])
        wrong.update(filter(None, bad))
        unusual.update(trait for own in traits for trait in own)
        whole[part] = Streamed(found.source, np.flatnonzero(good), *how), labels[part][good]
        hashes[part] = seen[good]
    count, left = sum(part.count for part in parts.values()), wrong.total()
    if left > count / 2:
        told = ", ".join(f"{problem} {n:,}" for problem, n in wrong.most_common())
        raise ImagesError(f"{name}: of {count:,} pictures {left:,} cannot be used ({told})")
    told = ", ".join(f"{what} {n:,}" for what, n in [*unusual.most_common(), *wrong.most_common()])
    size = (
        f"{count * math.prod(both(how[0])) * how[1] / 2**30:.1f} GiB decoded, so they are streamed"
    )
    more = (*more, f"note: {count - left:,} pictures, {size}; left out {left:,}", "note: " + told)
    return _cut(name, whole, hashes, classes, how, (*notes, *more))


def _cut(
    name: str,
    whole: Mapping[str, Part],
    hashes: Mapping[str, NDArray[np.uint64]],
    classes: tuple[str, ...],
    how: How,
    notes: tuple[str, ...],
) -> ImageSet:
    """Split parts by the hashes of their pictures."""
    labels = {part: own for part, (_, own) in whole.items()}
    cut = by_content(hashes, labels)
    splits: dict[str, Part] = {}
    for split in SPLITS:
        part, index = cut[split]
        pictures = whole[part][0]
        if isinstance(pictures, Streamed):
            pictures = pictures.part(index, split in ("calibration", "validation"))
        else:
            pictures = pictures[index]
        splits[split] = pictures, labels[part][index]
    digest = _content(cut, hashes, labels, classes, how)
    return ImageSet(name, splits, classes, True, notes, digest)


def by_content(
    hashes: Mapping[str, NDArray[np.uint64]], labels: Mapping[str, Labels]
) -> dict[str, tuple[str, NDArray[np.intp]]]:
    """The four splits of a set by the hashes of its pictures: file names and order do not matter,
    and equal pictures are never in two of train, validation and test.

    Args:
        hashes: Per part that the source has.
        labels: Likewise.

    Returns:
        Per split its part and the places in it, in their order.

    Raises:
        ImagesError: there are too few images.
    """
    own = hashes["train"]
    if len(own) < 10:
        raise ImagesError(f"there are only {len(own)} training images; at least 10 are needed")
    order = np.argsort(own, kind="stable")
    counts = {"test": len(order) // 5}
    rest = len(order) - (counts["test"] if "test" not in hashes else 0)
    counts["validation"] = min(5000, max(rest // 10, min(rest // 4, 1000), 1))
    cut = {part: (part, np.arange(len(found))) for part, found in hashes.items()}
    taken: dict[str, NDArray[np.intp]] = {}
    for split in ("test", "validation"):
        if split not in hashes:
            stop = counts[split]
            while 0 < stop < len(order) and own[order[stop]] == own[order[stop - 1]]:
                stop += 1  # equal pictures stay together
            taken[split], order = order[:stop], order[stop:]
    taken["train"] = order
    _share_rare_classes(taken, labels["train"])
    inner = taken["train"]
    last = inner[np.argsort(own[inner], kind="stable")]
    taken["calibration"] = last[-min(2000, max(1, len(last) // 4)) :]
    return cut | {split: ("train", np.sort(index)) for split, index in taken.items()}


def _content(
    cut: Mapping[str, tuple[str, NDArray[np.intp]]],
    hashes: Mapping[str, NDArray[np.uint64]],
    labels: Mapping[str, Labels],
    classes: tuple[str, ...],
    how: How,
) -> str:
    """Hash of the pictures and classes of each split, whatever their order, and of what is made of
    them."""
    h = hashlib.sha256(repr((how, classes)).encode())
    for split in SPLITS:
        part, index = cut[split]
        order = np.lexsort((labels[part][index], hashes[part][index]))
        for array in (hashes[part], labels[part]):
            h.update(np.ascontiguousarray(array[index][order]).tobytes())
    return h.hexdigest()[:16]


def _split(
    name: str,
    parts: Mapping[str, tuple[Pixels, Labels]],
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
    seen = labels[cut["calibration"]]
    if np.all(seen[1:] >= seen[:-1]):  # class by class: a batch of statistics would see one class
        cut["calibration"] = rng.permutation(cut["calibration"])
    own = {key: (images[index], labels[index]) for key, index in cut.items()}
    splits: dict[str, Part] = {**parts, **own}
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


def _digits(side: Size, channels: int) -> ImageSet:
    return _split("digits", {"train": digits.plain(side, channels)}, digits.NAMES, flip=False)


def _cluttered(side: Size, channels: int) -> ImageSet:
    drawn: dict[str, tuple[Pixels, Labels]] = digits.cluttered(side, channels)
    return _split("digits-clutter", drawn, digits.NAMES, flip=False)


EMBEDDED: Mapping[str, Callable[[Size, int], ImageSet]] = {
    "digits": _digits,
    "digits-clutter": _cluttered,
}
"""Sets that need no files, made of what scikit-learn brings."""
