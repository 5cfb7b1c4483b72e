"""Sets that are decoded as they are needed: the same pixels, splits by content, bounded memory."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from apq.errors import ImagesError
from apq.images import load_images
from apq.images.inspect import inspect
from apq.images.streamed import Streamed
from apq.supernet.training import Recipe, train
from apq.training.feed import Feed

COUNT = 80


def picture(i, kind="PNG", mode="RGB", **how):
    rng = np.random.default_rng(i)
    image = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).convert(mode)
    data = io.BytesIO()
    image.save(data, kind, **how)
    return data.getvalue()


@pytest.fixture
def sources(tmp_path):
    """The same pictures as class folders, as Parquet in row groups, and as tar files."""
    folder, table, tars = (tmp_path / name for name in ("folder", "table", "tars"))
    table.mkdir()
    tars.mkdir()
    rows = [{"image": {"bytes": picture(i)}, "label": f"c{i % 2}"} for i in range(COUNT)]
    for i, row in enumerate(rows):
        path = folder / row["label"] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    pq.write_table(pa.Table.from_pylist(rows), table / "train.parquet", row_group_size=7)
    for shard in range(2):
        with tarfile.open(tars / f"train-{shard}.tar", "w") as tar:
            for i in range(shard, COUNT, 2):
                label = json.dumps({"label": f"c{i % 2}"}).encode()
                for name, data in ((f"{i}.png", picture(i)), (f"{i}.json", label)):
                    about = tarfile.TarInfo(name)
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))
    return {"folder": folder, "table": table, "tars": tars}


def keyed(part):
    pixels, labels = part
    return {(p.tobytes(), int(n)) for p, n in zip(pixels[:], labels, strict=True)}


def test_streams_are_what_memory_holds_and_every_source_is_split_alike(sources):
    found = {name: load_images(str(path), 8, 3, memory=0) for name, path in sources.items()}
    held = {name: load_images(str(path), 8, 3) for name, path in sources.items()}
    assert len({images.digest() for images in found.values()}) == 1
    for split in ("train", "calibration", "validation", "test"):
        alike = [keyed(images.splits[split]) for images in found.values()]
        assert alike[0] == alike[1] == alike[2], split
    again = load_images(f"{sources['tars']}::split=content", 8, 3)
    assert again.digest() == found["folder"].digest()
    for split in ("train", "calibration", "validation", "test"):
        assert keyed(again.splits[split]) == keyed(found["folder"].splits[split])
    for name, images in found.items():
        assert isinstance(images.splits["train"][0], Streamed)
        every = [keyed(images.splits[s]) for s in ("train", "validation", "test")]
        own = [keyed(held[name].splits[s]) for s in ("train", "validation", "test")]
        assert set.union(*every) == set.union(*own)
        assert sum(map(len, every)) == COUNT
        pixels, _ = images.splits["calibration"]
        assert np.array_equal(pixels[3:5], pixels[:][3:5])
        assert images.mean == tuple(np.round(pixels[:].mean((0, 1, 2)) / 255, 4).tolist())
        order = images.splits["train"][0].order(np.random.default_rng(0))
        assert sorted(order) == list(range(len(order)))


def test_a_feed_gives_the_pictures_of_its_order(sources):
    images = load_images(str(sources["table"]), 8, 3, memory=0)
    pixels, labels = images.splits["train"]
    feed = Feed((pixels, labels), 16, torch.device("cpu"))
    feed.begin(np.random.default_rng(1))
    order = pixels.order(np.random.default_rng(1))
    for position in (1, 2, 0):  # a continued epoch begins in its middle
        x, y = feed.take(position)
        places = order[position * 16 : (position + 1) * 16]
        assert np.array_equal(x.permute(0, 2, 3, 1).numpy(), pixels[places])
        assert y.tolist() == labels[places].tolist()


def test_a_supernet_learns_from_a_stream(sources, tiny_space):
    space = tiny_space.with_(classes=2)
    images = load_images(str(sources["folder"]), 8, 1, 2, memory=0)
    _, made = train(space, images, Recipe(epochs=2, batch=16))
    assert 0 <= made["validation_accuracy"]["largest"] <= 1
    assert made["images"] == images.digest()


def test_odd_kinds_are_used_or_left_out_and_counted(tmp_path):
    odd = {
        "grey.png": picture(1, mode="L"), "clear.png": picture(2, mode="RGBA"),
        "cmyk.jpg": picture(3, "JPEG", "CMYK"), "cut.jpg": picture(4, "JPEG")[:-20],
        "cut.png": picture(5)[:-40], "empty.png": b"", "text.png": b"no picture",
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = 6
    odd["turned.jpg"] = picture(6, "JPEG", exif=exif)
    wide = io.BytesIO()
    Image.new("1", (20_000, 9_000)).save(wide, "PNG")
    odd["bomb.png"] = wide.getvalue()
    for i in range(20):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        (tmp_path / f"c{i % 2}" / f"{i}.png").write_bytes(picture(100 + i))
    for name, data in odd.items():
        (tmp_path / "c0" / name).write_bytes(data)
    found = load_images(str(tmp_path), 8, 3, memory=0)
    told = found.describe()
    for part in (
        "left out 5",
        "truncated 2",
        "empty 1",
        "no picture that Pillow reads 1",
        "too many pixels 1",
        "grey 1",
        "transparent 1",
        "CMYK 1",
        "turned by EXIF 1",
    ):
        assert part in told, part
    used = sum(len(found.splits[s][1]) for s in ("train", "validation", "test"))
    assert used == 24
    assert inspect(odd["cut.jpg"])[0] == "truncated"


def test_names_and_order_of_files_do_not_matter_and_equal_pictures_stay_together(tmp_path):
    for name, offset in (("a", 0), ("b", 500)):
        for i in range(60):
            path = tmp_path / name / f"c{i % 2}" / f"{(i + offset) * 7919 % 1000}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(i // 4 * 2 + i % 2))  # each twice
    first, second = (load_images(str(tmp_path / name), 8, 3, memory=0) for name in "ab")
    assert first.digest() == second.digest()
    parts = [keyed(first.splits[s]) for s in ("train", "validation", "test")]
    assert not parts[0] & parts[1]
    assert not parts[2] & (parts[0] | parts[1])


def test_the_middle_of_a_picture_can_be_what_counts(tmp_path):
    wide = Image.new("RGB", (64, 32), "red")
    wide.paste("blue", (16, 0, 48, 32))
    for i in range(12):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        wide.save(tmp_path / f"c{i % 2}" / f"{i}.png")
    whole = load_images(str(tmp_path), 8, 3).splits["test"][0]
    middle = load_images(f"{tmp_path}::fit=crop", 8, 3).splits["test"][0]
    assert (middle == [0, 0, 255]).all()
    assert not (whole == [0, 0, 255]).all()
    with pytest.raises(ImagesError, match="fit"):
        load_images(f"{tmp_path}::fit=", 8, 3)


def test_a_tar_without_labels_is_refused_in_words(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        about = tarfile.TarInfo("a.png")
        about.size = 4
        tar.addfile(about, io.BytesIO(b"1234"))
    with pytest.raises(ImagesError, match=r"'a' has no label.*\.cls"):
        load_images(str(tmp_path), 8, 3)
