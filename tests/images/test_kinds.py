"""Pictures, labels and layouts of every kind that people have, each with its right value."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from apq.errors import ImagesError, ModelError
from apq.images import load_images, require_same_images
from apq.images.decode import decode
from apq.images.parts import part_of

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def encoded(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **more)
    return data.getvalue()


def pixels(data: bytes, channels: int = 1) -> np.ndarray:
    return decode(data, "here", 8, channels)[..., 0]


def test_sixteen_bits_of_grey_keep_their_greys():
    wide = GREY.astype(np.uint16) * 257
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(pixels(encoded(Image.fromarray(wide), kind)), GREY), kind
    swapped = Image.frombytes("I;16B", (8, 8), wide.astype(">u2").tobytes())
    assert np.array_equal(pixels(encoded(swapped, "TIFF")), GREY)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_of_unknown_range_are_refused(kind):
    data = encoded(Image.fromarray(GREY.astype(kind)), "TIFF")
    with pytest.raises(ImagesError, match=r"here holds 32-bit .* 8 or 16 bits"):
        pixels(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_as_their_exif_tag_says(orientation):
    turns = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
             4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
             6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
             8: Image.Transpose.ROTATE_270}  # fmt: skip
    stored = Image.fromarray(GREY)
    if orientation in turns:
        stored = stored.transpose(turns[orientation])
    tag = Image.Exif()
    tag[0x0112] = orientation
    assert np.array_equal(pixels(encoded(stored, exif=tag)), GREY)


def test_what_is_transparent_is_white_whatever_lies_beneath():
    hidden = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    hidden[..., 3] = 0
    assert (pixels(encoded(Image.fromarray(hidden)), 3) == 255).all()
    half = np.dstack([np.zeros((8, 8), np.uint8), np.full((8, 8), 128, np.uint8)])
    assert (abs(pixels(encoded(Image.fromarray(half, "LA"))).astype(int) - 127) <= 1).all()
    palette = Image.fromarray(GREY).convert("P")
    assert (pixels(encoded(palette, transparency=palette.getpixel((0, 0))))[0, 0]) == 255
    assert pixels(encoded(Image.new("RGB", (8, 8), (9, 9, 9)), transparency=(9, 9, 9)))[3, 3] == 255


def test_other_modes_are_read():
    assert np.array_equal(pixels(encoded(Image.fromarray(GREY > 100))), (GREY > 100) * 255)
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = decode(encoded(cyan, "TIFF"), "here", 8, 3)[0, 0]
    assert (red, green, blue) == (0, 255, 255)
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(moving) == 10).all()
    assert (
        pixels(encoded(Image.new("RGB", (8, 8), (7, 7, 7)), "JPEG", icc_profile=b"broken"))[0, 0]
        == 7
    )


def broken_files() -> dict[str, bytes]:
    good = encoded(Image.fromarray(GREY))
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 70_000_000, zip=True)
    return {
        "nothing": b"", "a word": b"not an image", "cut short": good[: len(good) // 2],
        "a header alone": good[:20], "a bomb of text": encoded(Image.fromarray(GREY), pnginfo=text),
        "a bomb of pixels": encoded(Image.new("1", (14_000, 14_000))),
        "a short IHDR": good[:8] + b"\0\0\0\1IHDR\0" + good[20:],
    }  # fmt: skip


def test_broken_pictures_are_refused_by_name():
    for what, data in broken_files().items():
        with pytest.raises(ImagesError, match=r"photo\.png row 3"):
            _ = what, decode(data, "photo.png row 3", 8, 3)


def test_a_broken_exif_tag_says_nothing():
    data = encoded(Image.fromarray(GREY), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(pixels(data), GREY)


def tree(root: Path, classes=("cat", "dog"), count: int = 12, suffix: str = ".png") -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            grey = Image.fromarray(np.full((8, 8), 100 * number + i, dtype=np.uint8))
            grey.save(root / name / f"{i:03d}{suffix}")
    return root


def counts(found) -> list[int]:
    labels = np.concatenate([found.splits[s][1] for s in ("train", "validation", "test")])
    return np.bincount(labels).tolist()


def test_what_systems_leave_behind_is_no_class_and_no_picture(tmp_path):
    tree(tmp_path)
    for name in (".ipynb_checkpoints", "__MACOSX", ".git"):
        (tmp_path / name).mkdir()
    for name in ("cat/._000.png", "cat/.DS_Store", "dog/Thumbs.db", "dog/desktop.ini"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    found = load_images(str(tmp_path), 8, 1, 2)
    assert found.classes == ("cat", "dog")
    assert counts(found) == [12, 12]
    assert found.notes == ()
    (tmp_path / "bird").mkdir()
    with pytest.raises(ImagesError, match=r"class folder .*bird"):
        load_images(str(tmp_path), 8, 1)


def test_pictures_of_all_endings_and_depths_are_read_and_the_rest_is_counted(tmp_path):
    tree(tmp_path, count=5)
    tree(tmp_path, count=5, suffix=".TIF")
    tree(tmp_path, count=5, suffix=".ppm")
    for name in ("cat", "dog"):
        tree(tmp_path / name, classes=("2024",), count=5)
    (tmp_path / "cat/notes.txt").write_text("x")
    (tmp_path / "cat/one.xyz").write_text("x")
    (tmp_path / "readme.txt").write_text("x")
    found = load_images(str(tmp_path), 8, 1)
    assert counts(found) == [20, 20]
    assert found.notes == ("note: skipped 3 files that are no pictures (.txt 2, .xyz 1)",)
    assert "skipped 3 files" in found.describe()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    tree(tmp_path)
    os.mkfifo(tmp_path / "cat/pipe.png")
    with pytest.raises(ImagesError, match=r"pipe\.png is not a file"):
        load_images(str(tmp_path), 8, 1)


def test_parts_in_folders_are_matched_by_the_names_of_their_classes(tmp_path):
    tree(tmp_path / "train", count=20)
    tree(tmp_path / "val", classes=("dog",), count=4)
    tree(tmp_path / "test", classes=("dog", "cat"), count=3)
    found = load_images(str(tmp_path), 8, 1)
    assert len(found.splits["train"][1]) == 40
    assert found.splits["validation"][1].tolist() == [1] * 4
    assert found.splits["test"][1].tolist() == [0] * 3 + [1] * 3
    assert found.notes == ("note: the validation part has no image of cat",)
    tree(tmp_path / "test", classes=("eel",), count=3)
    with pytest.raises(ImagesError, match=r"test part has classes .* lacks: eel"):
        load_images(str(tmp_path), 8, 1)


def test_a_test_folder_alone_is_no_class(tmp_path):
    tree(tmp_path / "test")
    with pytest.raises(ImagesError, match="none named 'train'"):
        load_images(str(tmp_path), 8, 1)


def test_a_rare_class_is_in_every_part(tmp_path):
    tree(tmp_path, count=60)
    tree(tmp_path, classes=("eel",), count=3)
    found = load_images(str(tmp_path), 8, 1)
    for part in ("train", "validation", "test"):
        assert np.sum(found.splits[part][1] == 2) == 1, part


@pytest.mark.parametrize(
    ("name", "part"),
    [("test", "test"), ("test-00000-of-00001", "test"), ("my_test2", "test"), ("latest", None),
     ("contest-2", None), ("attestation-train-0", "train"), ("valid", "validation"),
     ("invalid", None), ("dev", "validation"), ("device", None), ("TEST", "test"),
     ("validation_1", "validation"), ("pretrained", None), ("0000", None)],
)  # fmt: skip
def test_parts_are_words_in_names(name, part):
    assert part_of(name) == part


def picture(i: int) -> bytes:
    return encoded(Image.fromarray(np.full((8, 8), i, dtype=np.uint8)))


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, labels, kind=None, image="image", label="label", names=None, images=None,
          image_kind=STRUCT) -> Path:  # fmt: skip
    images = images or [{"bytes": picture(i), "path": None} for i in range(len(labels))]
    told = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
    schema = pa.schema(
        [(image, image_kind), (label, kind or pa.int64())],
        metadata={"huggingface": json.dumps(told)} if names else None,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: images, label: labels}, schema=schema), path)
    return path


def truth(path: Path) -> dict[int, str]:
    """Name of the class by the grey of the picture."""
    found = load_images(str(path), 8, 1)
    parts = (found.splits[s] for s in ("train", "validation", "test"))
    return {
        int(p[0, 0, 0]): found.classes[label]
        for images, labels in parts
        for p, label in zip(images, labels, strict=True)
    }


WORDS = ["cat", "dog", "eel"] * 8


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        (WORDS, pa.string(), WORDS),
        (WORDS, pa.large_string(), WORDS),
        (WORDS, pa.dictionary(pa.int8(), pa.string()), WORDS),
        ([str(i % 2) for i in range(24)], pa.string(), ["0", "1"] * 12),
        ([float(i % 2) for i in range(24)], pa.float64(), ["0", "1"] * 12),
        ([bool(i % 2) for i in range(24)], pa.bool_(), ["0", "1"] * 12),
        ([(7, 2_000_000)[i % 2] for i in range(24)], pa.int64(), ["7", "2000000"] * 12),
        ([1 + i % 3 for i in range(24)], pa.uint8(), ["1", "2", "3"] * 8),
        ([10**8 + i % 2 for i in range(24)], pa.int64(), ["100000000", "100000001"] * 12),
        (["a", "1"] * 12, pa.string(), ["a", "1"] * 12),
    ],
)
def test_labels_of_all_types_become_classes(tmp_path, labels, kind, expected):
    assert truth(write(tmp_path / "a.parquet", labels, kind)) == dict(enumerate(expected))


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0.0, 0.9] * 12, pa.float64(), r"row 1 is 0\.9, not a whole number"),
        ([0.0, float("nan")] * 12, pa.float64(), "row 1 is missing"),
        ([0.0, float("inf")] * 12, pa.float64(), "row 1 is inf"),
        ([0, None] * 12, pa.int64(), "row 1 is missing"),
        ([0, -1] * 12, pa.int64(), "row 1 is -1"),
        (["cat", " "] * 12, pa.string(), "row 1 is empty"),
        ([[0], [1]] * 12, pa.list_(pa.int64()), r"type list.*one class per image"),
        ([[1.0, 0.0]] * 24, pa.list_(pa.float32()), "one-hot"),
        ([b"cat"] * 24, pa.binary(), "type binary"),
        (list(range(70_000)), pa.int64(), "are they numbers of images"),
    ],
)
def test_labels_that_name_no_class_are_refused(tmp_path, labels, kind, message):
    images = [{"bytes": picture(0), "path": None}] * len(labels)
    path = write(tmp_path / "a.parquet", labels, kind, images=images)
    with pytest.raises(ImagesError, match=message):
        load_images(str(path), 1, 1)


def test_columns_of_other_names_are_found(tmp_path):
    labels = [i % 2 for i in range(24)]
    expected = {i: str(i % 2) for i in range(24)}
    blobs = [picture(i) for i in range(24)]
    assert truth(write(tmp_path / "a.parquet", labels, image="img")) == expected
    file = write(tmp_path / "b.parquet", labels, image="img", label="fine_label")
    assert truth(file) == expected
    for kind in (pa.binary(), pa.large_binary()):
        assert (
            truth(write(tmp_path / "c.parquet", labels, images=blobs, image_kind=kind)) == expected
        )
    named = write(tmp_path / "d.parquet", labels, label="kind_of_pet", names=["x", "y"])
    assert truth(named) == {i: "xy"[i % 2] for i in range(24)}
    with pytest.raises(ImagesError, match="must have columns 'image'"):
        load_images(str(write(tmp_path / "e.parquet", labels, label="kind_of_pet")), 8, 1)


def test_pictures_beside_a_parquet_file_are_read_and_none_outside(tmp_path):
    labels = [i % 2 for i in range(24)]
    for i in range(24):
        (tmp_path / "set/pics").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"set/pics/{i}.png").write_bytes(picture(i))
    (tmp_path / "secret.png").write_bytes(picture(0))
    here = [{"bytes": None, "path": f"pics/{i}.png"} for i in range(24)]
    file = write(tmp_path / "set/a.parquet", labels, images=here)
    assert truth(file) == {i: str(i % 2) for i in range(24)}
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        images = [*here[:-1], {"bytes": None, "path": path}]
        with pytest.raises(ImagesError, match=r"row 23.* lies outside"):
            load_images(str(write(tmp_path / "set/a.parquet", labels, images=images)), 8, 1)
    texts = pa.struct([("bytes", pa.string()), ("path", pa.string())])
    images = [{"bytes": str(tmp_path / "secret.png"), "path": None}] * 24
    file = write(tmp_path / "set/b.parquet", labels, images=images, image_kind=texts)
    with pytest.raises(ImagesError, match="must have columns"):
        load_images(str(file), 8, 1)


def test_files_that_number_their_classes_differently_are_matched_by_name(tmp_path):
    write(tmp_path / "train.parquet", [i % 2 for i in range(40)], names=["cat", "dog"])
    write(tmp_path / "test.parquet", [i % 2 for i in range(10)], names=["dog", "cat"])
    found = load_images(str(tmp_path), 8, 1)
    assert found.classes == ("cat", "dog")
    assert found.splits["test"][1].tolist() == [1, 0] * 5
    write(tmp_path / "test.parquet", [i % 3 for i in range(9)], names=["dog", "cat", "eel"])
    with pytest.raises(ImagesError, match="training part lacks: eel"):
        load_images(str(tmp_path), 8, 1)


def test_downloaded_repositories_are_read(tmp_path):
    train, test = [i % 2 for i in range(30)], [0, 1, 1, 1]
    write(tmp_path / "hub/data/train-00000-of-00002.parquet", train)
    write(tmp_path / "hub/data/train-00001-of-00002.parquet", train)
    write(tmp_path / "hub/data/validation-00000-of-00001.parquet", [1, 1, 0])
    write(tmp_path / "hub/data/test-00000-of-00001.parquet", test)
    (tmp_path / "hub/README.md").write_text("x")
    write(tmp_path / "converted/default/train/0000.parquet", train)
    write(tmp_path / "converted/default/test/0000.parquet", test)
    hub = load_images(str(tmp_path / "hub"), 8, 1)
    assert [len(hub.splits[s][1]) for s in ("train", "validation")] == [60, 3]
    for where in ("hub", "hub/data", "converted", "converted/default"):
        found = load_images(str(tmp_path / where), 8, 1)
        assert found.splits["test"][1].tolist() == test
    write(tmp_path / "converted/other/train/0000.parquet", train)
    with pytest.raises(ImagesError, match=r"several sets.*default.*other"):
        load_images(str(tmp_path / "converted"), 8, 1)


def test_more_images_than_memory_holds_are_refused_before_decoding(tmp_path):
    path = write(tmp_path / "a.parquet", [i % 2 for i in range(24)])
    with pytest.raises(ImagesError, match="GiB in memory, the limit is 32"):
        load_images(str(path), 30_000, 3, memory=2**50)


def test_other_images_than_an_artefact_was_made_with_are_refused():
    digits = load_images("digits", 8, 1)
    for told in ({"images": digits.digest()}, {"images": {"digest": digits.digest()}}, {}):
        require_same_images(told, digits, "model")
    with pytest.raises(ModelError, match=r"the supernet .*photos.*digits.*--other-images"):
        require_same_images({"images": "0123", "image_set": "photos"}, digits, "the supernet")
