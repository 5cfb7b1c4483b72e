"""Image sets: three sources, fixed splits, errors that name the file."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from apq.errors import ApqError, ImagesError, ModelError
from apq.images import digits, load_images, require_same_images
from apq.supernet.task import classification


def png(seed: int, size: int = 8, mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(seed)
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    data = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def write_parquet(path, count, names=("cat", "dog"), blobs=None, labels=None):
    images = [
        {"bytes": b, "path": f"{i}.png"} for i, b in enumerate(blobs or map(png, range(count)))
    ]
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
        ],
        metadata={
            "huggingface": json.dumps({"info": {"features": {"label": {"names": list(names)}}}})
        },
    )
    columns = {"image": images, "label": labels or [i % len(names) for i in range(count)]}
    pq.write_table(pa.table(columns, schema=schema), path)


def keys(pixels: np.ndarray) -> set[bytes]:
    return {p.tobytes() for p in pixels}


def test_digits_split_is_fixed_and_clean():
    first, again = load_images("digits", 8, 1, 10), load_images("digits", 8, 1, 10)
    assert first.digest() == again.digest()
    parts = {name: keys(pixels) for name, (pixels, _) in first.splits.items()}
    assert parts["calibration"] <= parts["train"]
    assert len(first.splits["train"][1]) + len(first.splits["validation"][1]) == 1438
    # scikit-learn's digits hold no image twice, so shared pixels would be shared images
    assert not parts["train"] & parts["validation"]
    assert not parts["test"] & (parts["train"] | parts["validation"])
    for _, labels in first.splits.values():
        assert set(labels) == set(range(10))


def test_parquet_and_folders_give_the_same_images(tmp_path):
    write_parquet(tmp_path / "train.parquet", 40)
    write_parquet(tmp_path / "test.parquet", 6, blobs=[png(100 + i) for i in range(6)])
    from_parquet = load_images(str(tmp_path), 8, 3, 2)
    assert from_parquet.classes == ("cat", "dog")
    assert len(from_parquet.splits["test"][1]) == 6
    tree = tmp_path / "tree"
    for part, start, count in (("train", 0, 40), ("test", 100, 6)):
        for i in range(count):
            folder = tree / part / ("cat", "dog")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:03d}.png").write_bytes(png(start + i))
    from_folders = load_images(str(tree), 8, 3, 2)
    assert from_folders.classes == ("cat", "dog")
    whole = [
        keys(np.concatenate([s.splits["train"][0], s.splits["validation"][0]]))
        for s in (from_parquet, from_folders)
    ]
    assert whole[0] == whole[1]
    assert len(whole[0]) == 40


def test_calibration_images_do_not_come_class_by_class(tmp_path):
    """A batch of one class alone would give batch norm that class's statistics."""
    for i in range(160):
        folder = tmp_path / "train" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03d}.png").write_bytes(png(i))
    labels = load_images(str(tmp_path), 8, 3, 2).splits["calibration"][1]
    assert len(labels) >= 20
    assert set(labels[: len(labels) // 2]) == {0, 1}
    assert np.sum(labels[1:] != labels[:-1]) > len(labels) / 4
    again = load_images(str(tmp_path), 8, 3, 2).splits["calibration"][1]
    assert np.array_equal(labels, again)


def test_a_mirrored_image_can_be_no_example_of_its_class(tmp_path):
    for i in range(12):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        ramp = np.tile(np.arange(0, 160, 20, dtype=np.uint8), (8, 1)) + i
        Image.fromarray(ramp).save(tmp_path / f"c{i % 2}" / f"{i}.png")
    mirrored, upright = (load_images(f"{tmp_path}{said}", 8, 1) for said in ("", "::mirror=no"))
    assert upright.name.endswith("::mirror=no")
    for images, both_ways in ((mirrored, True), (upright, False)):
        pixels = torch.from_numpy(images.splits["train"][0]).permute(0, 3, 1, 2)
        change, none = classification(images).change, torch.zeros(len(pixels))
        seen = [change(pixels, none, np.random.default_rng(seed))[0][..., 1:7] for seed in range(4)]
        falls = torch.cat(seen).float().diff().lt(0)  # brightness, from left to right
        assert bool(falls.any()) is both_ways
    with pytest.raises(ModelError, match="mirror=no"):
        require_same_images({"images": upright.digest(), "image_set": upright.name}, mirrored, "it")
    with pytest.raises(ApqError, match="mirror"):
        load_images(f"{tmp_path}::mirror=maybe", 8, 1)


def test_images_are_resized_and_made_grey(tmp_path):
    write_parquet(tmp_path / "all.parquet", 30, blobs=[png(i, 20) for i in range(30)])
    found = load_images(str(tmp_path / "all.parquet"), 12, 1)
    assert found.splits["train"][0].shape[1:] == (12, 12, 1)


def test_real_images_in_the_hugging_face_layout_are_read(shared, tmp_path):
    table = pq.read_table(shared / "data/cifar10/test.parquet").slice(0, 100)
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(table.slice(0, 20), tmp_path / "test.parquet")
    found = load_images(str(tmp_path), 32, 3, 10)
    raw = Image.open(io.BytesIO(table["image"][3]["bytes"].as_py()))
    pixels, labels = found.splits["test"]
    assert np.array_equal(pixels[3], np.asarray(raw.convert("RGB")))
    assert labels.tolist() == table["label"].to_pylist()[:20]
    assert found.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog",
                             "horse", "ship", "truck")  # fmt: skip


def test_errors_say_what_was_looked_for(tmp_path):
    with pytest.raises(ImagesError, match="one folder per class"):
        load_images(str(tmp_path / "none"), 8, 3)
    with pytest.raises(ImagesError, match="neither Parquet files nor"):
        load_images(str(tmp_path), 8, 3)
    with pytest.raises(ImagesError, match=r"10 classes, the space has 7.*classes = 10"):
        load_images("digits", 8, 1, 7)
    file = tmp_path / "train.parquet"
    write_parquet(file, 12, blobs=[png(0)] * 11 + [b"not an image"])
    with pytest.raises(ImagesError, match="row 11 is not an image"):
        load_images(str(file), 8, 3)
    write_parquet(file, 12, labels=[0, 1, 2] * 4)
    with pytest.raises(ImagesError, match="label 2 has no name"):
        load_images(str(file), 8, 3)
    pq.write_table(pa.table({"picture": [1], "label": [0]}), file)
    with pytest.raises(ImagesError, match=r"'image'.*label, picture"):
        load_images(str(file), 8, 3)
    file.write_bytes(b"PAR1 broken")
    with pytest.raises(ImagesError, match="not a readable Parquet"):
        load_images(str(file), 8, 3)


def test_cluttered_digits_are_split_by_digit():
    first = load_images("digits-clutter", 16, 1, 10)
    glyphs = load_digits()
    order = np.random.default_rng(digits.SEED).permutation(1797)
    starts = {"test": 0, "validation": 359, "train": 359 + 179}
    for part, start in starts.items():
        pixels, labels = first.splits[part]
        copies = digits.DRAWINGS[part]
        assert pixels.shape[1:] == (16, 16, 1)
        own = order[start : start + len(labels) // copies]
        assert (labels == np.repeat(glyphs.target[own], copies)).all()  # digits follow each other
    assert sum(len(first.splits[p][1]) // digits.DRAWINGS[p] for p in starts) == 1797
    parts = {name: keys(pixels) for name, (pixels, _) in first.splits.items()}
    assert parts["calibration"] <= parts["train"]
    assert not parts["test"] & (parts["train"] | parts["validation"])


def test_pieces_in_the_clutter_are_of_the_same_part_and_always_the_same(monkeypatch):
    marked = load_digits()
    order = np.random.default_rng(digits.SEED).permutation(1797)
    marked.images[order[:359]] = 0  # what is tested on is black: only noise may be left of it
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: marked)
    monkeypatch.setattr(digits, "NOISE", 0.0)
    monkeypatch.setattr(digits, "DRAWINGS", {"train": 1, "validation": 1, "test": 1})
    drawn, again = digits.cluttered(16, 1), digits.cluttered(16, 1)
    assert all((drawn[part][0] == again[part][0]).all() for part in drawn)
    assert drawn["test"][0].max() == 0
    assert drawn["train"][0].max(axis=(1, 2, 3)).min() > 100
