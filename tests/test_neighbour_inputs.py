"""Odd inputs beside those of public bug reports: each gives the right value, or words.

A row of a table is an input and what apq has to make of it: a value, or a pattern (``says``) of an
ApqError that names what is wrong. Nothing else may be raised.
"""

from __future__ import annotations

import decimal
import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from apq.cli import app
from apq.cli.budgets import numbers, per_device
from apq.errors import ApqError
from apq.hardware import LookupTable, build_table, load_cost_model
from apq.hardware.calibration import read_networks
from apq.hardware.importing import import_columns
from apq.images import load_images
from apq.images.decode import decode
from apq.predictor import Columns, read_table
from apq.samples import read_samples, write_part
from apq.space import load_space


class says:
    """The pattern of a refusal."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __repr__(self) -> str:
        return f"says({self.pattern!r})"


def check(made, expected):
    """``made()`` gives what is expected, or is refused as expected."""
    if not isinstance(expected, says):
        assert made() == expected
        return
    with pytest.raises((ApqError, typer.BadParameter)) as caught:
        made()
    assert re.search(expected.pattern, str(caught.value)), str(caught.value)


# ---- pictures ------------------------------------------------------------------------------------

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
WIDE = GREY.astype(np.uint16) * 257
FULL = np.full((8, 8), 255, np.uint8)


def encoded(image, kind="PNG", **more):
    data = io.BytesIO()
    image.save(data, kind, **more)
    return data.getvalue()


def grey(array=GREY):
    return Image.fromarray(array)


def wide_png(colour, samples, *chunks):
    """A PNG of 16 bits per channel, which Pillow does not write itself."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        *(chunk(*c) for c in chunks),
        chunk(b"IDAT", zlib.compress(rows)),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


BIG = grey(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
CMYK = Image.merge("CMYK", [grey(), grey(), grey(), grey(GREY * 0)])
FRAMES = [Image.new("L", (8, 8), value) for value in (10, 200)]
MORE = {"save_all": True, "append_images": FRAMES[1:]}
PALETTE = grey().convert("P")
ROW = GREY[0].tolist()
UNKNOWN = says("^here is not an image that can be decoded: it is of no kind that Pillow reads$")
CUT = says("^here is not an image that can be decoded: image file is truncated")

PICTURES = {
    "1 bit": (encoded(grey(GREY > 100)), ((GREY > 100)[3] * 255).tolist(), 3),
    "1 bit, fax": (
        encoded(grey(GREY > 100), "TIFF", compression="group4"), ((GREY > 100)[3] * 255).tolist(), 3
    ),
    "1 bit, portable": (encoded(grey(GREY > 100), "PPM"), ((GREY > 100)[3] * 255).tolist(), 3),
    "grey and opaque": (encoded(Image.fromarray(np.dstack([GREY, FULL]), "LA")), ROW, 0),
    "grey and clear": (encoded(Image.fromarray(np.dstack([GREY, 0 * FULL]), "LA")), [255] * 8, 0),
    "ink": (encoded(CMYK, "TIFF"), [255 - v for v in ROW], 0),
    "ink in JPEG": (encoded(CMYK, "JPEG", quality=100), [255 - v for v in ROW], 0),
    "palette with alpha": (
        encoded(PALETTE, transparency=bytes([0] * 10 + [255] * 246)), [255] * 3 + ROW[3:], 0
    ),
    "palette with a clear colour": (
        encoded(PALETTE, "GIF", transparency=0), [255, *ROW[1:]], 0
    ),
    "16 bits, big end first": (
        encoded(Image.frombytes("I;16B", (8, 8), WIDE.astype(">u2").tobytes()), "TIFF"), ROW, 0
    ),
    "16 bits of grey and alpha": (
        wide_png(4, np.dstack([WIDE, np.full_like(WIDE, 65535)])), ROW, 0
    ),
    "16 bits of colour": (wide_png(2, np.dstack([WIDE] * 3)), ROW, 0),
    "16 bits of colour and alpha": (
        wide_png(6, np.dstack([WIDE] * 3 + [np.full_like(WIDE, 65535)])), ROW, 0
    ),
    "16 bits with a clear grey": (
        wide_png(0, WIDE, (b"tRNS", struct.pack(">H", 4 * 257))), [0, 255, *ROW[2:]], 0
    ),
    "fractions": (
        encoded(grey(GREY.astype(np.float32) / 255), "TIFF"), says("^here holds 32-bit frac"), 0
    ),
    "fractions with nan": (
        encoded(grey(np.full((8, 8), np.nan, np.float32)), "TIFF"),
        says("^here holds 32-bit fractions.*Convert it to 8 or 16 bits"), 0,
    ),
    "32 bits": (
        encoded(grey(GREY.astype(np.int32)), "TIFF"), says("^here holds 32-bit whole numbers"), 0
    ),
    "moving GIF": (encoded(FRAMES[0], "GIF", **MORE), [10] * 8, 0),
    "moving WebP": (
        encoded(FRAMES[0].convert("RGB"), "WEBP", save_all=True, lossless=True,
                append_images=[FRAMES[1].convert("RGB")]), [10] * 8, 0,
    ),
    "moving PNG": (encoded(FRAMES[0], **MORE), [10] * 8, 0),
    "pages": (encoded(FRAMES[0], "TIFF", **MORE), [10] * 8, 0),
    "one pixel high": (encoded(Image.new("L", (500, 1), 9)), [9] * 8, 0),
    "half a JPEG": (encoded(BIG, "JPEG")[:1500], CUT, 0),
    "a JPEG without its end": (encoded(BIG, "JPEG")[:-2], CUT, 0),
    "half a PNG": (encoded(BIG)[:800], CUT, 0),
    "half a WebP": (
        encoded(BIG.convert("RGB"), "WEBP")[:300], says("^here is not an image that can be dec"), 0
    ),
    "nothing": (b"", says("^here is empty: a picture of 0 bytes$"), 0),
    "a drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNKNOWN, 0),
    "a page about an error": (b"<html>404</html>", UNKNOWN, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name):
    data, expected, row = PICTURES[name]
    for channels in (1, 3):
        check(lambda n=channels: decode(data, "here", 8, n)[row, :, -1].tolist(), expected)


def test_a_picture_file_of_no_bytes_is_named(tmp_path):
    path = tmp_path / "x.png"
    path.touch()
    check(lambda: decode(path, str(path), 8, 1), says(rf"^{path} is empty"))


# ---- labels --------------------------------------------------------------------------------------

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ROWS = 24
LISTS = says(r"a\.parquet: labels are of type (list|struct|fixed).*give one class per image")
LABELS = {
    "booleans": ([i % 2 == 0 for i in range(ROWS)], None, {"0", "1"}),
    "below 0": ([0, -7] * 12, None, says(r"a\.parquet: the label in row 1 is -7; labels are 0 or")),
    "below 0 in text": (["0", "-1"] * 12, None, says("row 1 is -1; labels are 0 or more")),
    "bytes": ([b"cat", b"dog"] * 12, None, says("labels are of type binary; give one class")),
    "lists": ([[0], [1]] * 12, None, LISTS),
    "one-hot": ([[0, 1], [1, 0]] * 12, pa.list_(pa.int8(), 2), LISTS),
    "structs": ([{"id": 0}, {"id": 1}] * 12, None, LISTS),
    "days": (
        [pd.Timestamp(2020, 1, 1 + i % 2) for i in range(ROWS)], None, says("of type timestamp")
    ),
    "decimals": ([decimal.Decimal(i % 2) for i in range(ROWS)], pa.decimal128(5, 2), {"0", "1"}),
    "nulls": ([None] * ROWS, None, says("the label in row 0 is missing")),
    "half floats": (np.array([0, 1] * 12, np.float16), None, {"0", "1"}),
    "blanks around words": ([" cat", "dog", "cat "] * 8, None, {"cat", "dog"}),
    "an accent in two ways": (["\u00e9", "e\u0301", "f"] * 8, None, {"\u00e9", "f"}),
    "an empty word": (["cat", "  "] * 12, None, says("the label in row 1 is empty")),
    "nan as text": (["nan", "cat"] * 12, None, says("row 0 is 'nan', which is how a missing")),
    "words that look like fractions": (["1.0", "1.5"] * 12, None, {"1.0", "1.5"}),
    "too large": ([0, 2**64 - 1] * 12, pa.uint64(), says("in row 1 is 1844.*below 2")),
    "one class": ([3] * ROWS, None, says("a.parquet has one class, 3; there is nothing to tell")),
    "a different class each": (
        list(range(ROWS)), None, {str(i) for i in range(ROWS)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels(tmp_path, name):
    labels, kind, expected = LABELS[name]
    images = pa.array([{"bytes": encoded(grey()), "path": None}] * ROWS, STRUCT)
    pq.write_table(
        pa.table({"image": images, "label": pa.array(labels, kind)}), tmp_path / "a.parquet"
    )
    check(lambda: set(load_images(str(tmp_path / "a.parquet"), 1, 1).classes), expected)


# ---- folders -------------------------------------------------------------------------------------


def tree(root: Path, *names: str, count: int = 10) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(encoded(Image.new("L", (2, 2), 20 * number + i)))
    return root


def with_link(name, target):
    def made(root):
        tree(root, "a", "b")
        (root / name).symlink_to(root / target)
        return root

    return made


def with_file(name, data=b""):
    def made(root):
        tree(root, "a", "b")
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
        return root

    return made


def named(*names):
    return lambda root: tree(root, *names)


def read_only(root):
    tree(root, "a", "b")
    for folder in (root / "a", root / "b", root):
        folder.chmod(0o555)
    return root


def picture_folder(root):
    tree(root, "a", "b")
    (root / "a/0.png").unlink()
    (root / "a/0.png").mkdir()
    return root


def parts(root):
    tree(root / "train", "a", "b")
    tree(root / "test", "a", "c")
    return root


FOLDERS = {
    "blanks": (named("my cat", " dog "), (" dog ", "my cat")),
    "scripts": (named("\u732b", "\u72ac"), ("\u72ac", "\u732b")),
    "brackets and stars": (named("[a]", "b*?"), ("[a]", "b*?")),
    "a brace below brackets": (lambda r: tree(r / "x[1]*{2}", "a", "b"), ("a", "b")),
    "line breaks": (named("a\nb", "c"), ("a\nb", "c")),
    "bytes that are no text": (
        named(os.fsdecode(b"a\xff"), "c"), (os.fsdecode(b"a\xff"), "c")
    ),
    "per cent": (named("50%", "100%"), ("100%", "50%")),
    "a loop upwards": (with_link("c", "."), says("/c is a link to a folder that it lies in; remo")),
    "a loop to itself": (with_link("c", "c"), ("a", "b")),
    "a loop in a class": (with_link("a/again", "a"), ("a", "b")),
    "two names of one class": (with_link("c", "a"), says("/c and .*/a are the same folder")),
    "a link to nowhere": (with_link("a/x.png", "gone.png"), says("a/x.png is not a file that can")),
    "an empty class": (
        lambda r: (tree(r, "a", "b"), (r / "c").mkdir(), r)[-1],
        says(r"no images \(.*\) in the class folder .*/c\. Remove it"),
    ),
    "a class of texts": (with_file("c/x.txt"), says(r"in the class folder .*/c\. Remove it")),
    "an empty picture": (with_file("a/x.png"), says(r"a/x\.png is empty")),
    "a text that calls itself a picture": (
        with_file("a/x.jpg", b"hello"), says(r"a/x\.jpg is not an image.* of no kind")
    ),
    "read-only": (read_only, ("a", "b")),
    "a folder that is called a picture": (picture_folder, ("a", "b")),
    "a class that is called a table": (named("a", "b.parquet"), ("a", "b.parquet")),
    "a broken table beside classes": (
        with_file("x.parquet", b"no"), says(r"x\.parquet is not a readable Parquet file")
    ),
    "one class": (named("a"), says("has one class, a; there is nothing to tell apart")),
    "a class that only the test has": (parts, says("/test: the test part has classes.*lacks: c")),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path, name):
    make, expected = FOLDERS[name]
    root = make(tmp_path / "set")
    check(lambda: load_images(str(root), 2, 1).classes, expected)


def test_a_folder_that_cannot_be_read_is_not_skipped(tmp_path, monkeypatch):
    """As root every folder can be read, so the system's refusal is played."""
    root = tree(tmp_path / "set", "a", "b")
    walk = os.walk

    def refusing(top, onerror=None):
        if Path(top).name == "b":
            onerror(PermissionError(13, "Permission denied", str(top)))
        return walk(top)

    monkeypatch.setattr(os, "walk", refusing)
    check(lambda: load_images(str(root), 2, 1), says("cannot read the folder .*/b: Permission den"))


# ---- tables of measurements ----------------------------------------------------------------------

COLUMNS = Columns("top1", ("ks_*", "d_*"), ("macs",), 0.01)
FRAME = pd.DataFrame(
    {
        "ks_0": [3, 5, 7, 3] * 5, "ks_1": [3, 3, 5, 7] * 5, "d_0": [2, 3, 4, 2] * 5,
        "macs": np.arange(20) * 10.0 + 1000, "top1": np.linspace(70, 72, 20).round(3),
    }
)  # fmt: skip
CSV = FRAME.to_csv(index=False)
LINES = CSV.strip().split("\n")


def texts(column, form):
    return FRAME.assign(**{column: [form.format(v) for v in FRAME[column]]}).to_csv(index=False)


TABLES = {
    "line ends of Windows": (CSV.replace("\n", "\r\n"), True),
    "line ends of old Macs": (CSV.replace("\n", "\r"), True),
    "a byte-order mark": ("\ufeff" + CSV, True),
    "blank lines": (CSV.replace("\n", "\n\n"), True),
    "blanks in names": (CSV.replace("ks_0,ks_1", "ks_0, ks_1 "), True),
    "quotes": ("\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in LINES), True),
    "a line break in a note": (FRAME.assign(note="a\nb").to_csv(index=False), True),
    "a column without a name": (FRAME.to_csv(), True),
    "semicolons": (FRAME.to_csv(index=False, sep=";"), says(r"\.csv separates its columns by ';'")),
    "semicolons and commas": (
        FRAME.to_csv(index=False, sep=";", decimal=","), says("its columns by ';'; save it with")
    ),
    "tabs": (FRAME.to_csv(index=False, sep="\t"), says(r"separates its columns by '\\t'")),
    "decimal commas": (texts("top1", "{:.1f}").replace(".", ","), says("more cells than there")),
    "decimal commas in quotes": (
        FRAME.assign(top1=[str(v).replace(".", ",") for v in FRAME.top1]).to_csv(index=False),
        says(r"column 'top1' has '70,0' in row 0, which is no finite number"),
    ),
    "per cent": (texts("top1", "{:.2f}%"), says("column 'top1' has '70.00%' in row 0")),
    "thousands": (texts("macs", "{:,.0f}"), says("column 'macs' has '1,000' in row 0")),
    "marks between digits": (texts("macs", "1_{:.0f}"), says("column 'macs' has '1_1000' in row")),
    "units": (texts("macs", "{:.0f}M"), says("column 'macs' has '1000M' in row 0")),
    "too large": (texts("macs", "{:.0f}e400"), says("column 'macs' has inf in row 0")),
    "a column twice": (CSV.replace("ks_1", "ks_0", 1), says(r"t\.csv has column ks_0 twice")),
    "a target twice": (CSV.replace("macs", "top1", 1), says(r"has column top1 twice; keep one")),
    "a cell too many": ("\n".join([*LINES, "3,3,2,1000,70,9"]), says("5 fields in line 22")),
    "a cell too many everywhere": (
        "\n".join([LINES[0], *(f"{line},9" for line in LINES[1:])]), says("rows with more cells")
    ),
    "a cell too few": ("\n".join([*LINES, "3,3"]), says("column 'macs' has nothing in row 20")),
    "an empty cell": (CSV.replace("3,3,2", "3,,2", 1), says("column 'ks_1' has nothing in row 0")),
    "n/a": (CSV.replace("3,3,2", "3,n/a,2", 1), says("column 'ks_1' has nothing in row 0")),
    "names once more": (CSV + CSV, says("column 'macs' has 'macs' in row 20")),
    "no rows": (LINES[0], says(r"t\.csv has no rows")),
    "nothing": ("", says(r"cannot read table .*t\.csv: No columns")),
    "a remark first": (f"# mine\n{CSV}", says(r"t\.csv begins with '# mine'; its first line must")),
    "a spreadsheet's first line": (f"sep=,\n{CSV}", says("begins with 'sep='; its first line")),
    "a zero byte": (CSV.replace("3,3,2", "3,\0,2", 1), says(r"column 'ks_1' has '\\x00' in row 0")),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    text, expected = TABLES[name]
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())

    def made():
        read = read_table(path, COLUMNS)
        return bool((read[FRAME.columns].to_numpy(float) == FRAME.to_numpy(float)).all())

    check(made, expected)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("T.CSV", CSV.encode(), 20),
        ("t.csv", CSV.encode("utf-16"), says("UTF-16 text, as spreadsheets save it; use UTF-8")),
        ("t.csv", b"ks_\xe9\n1", says("cannot read table .*t.csv: 'utf-8' codec")),
        ("t.txt", CSV.encode(), says(r"as Parquet \(names of CSV files end in \.csv\)")),
    ],
)
def test_table_files(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    check(lambda: len(read_table(tmp_path / name, COLUMNS)), expected)


# ---- lookup tables -------------------------------------------------------------------------------

HEAD = "op,in_channels,out_channels,height,width,kernel,stride,groups,weight_bits,activation_bits,"
ONE = "conv,3,8,8,8,3,1,1,8,8,"
PRICES = {
    "blanks": (f"{HEAD} latency_ms \n{ONE} 0.5 \n", 0.5),
    "a point first": (f"{HEAD}latency_ms\n{ONE}.5\n", 0.5),
    "powers of ten": (f"{HEAD}latency_ms\n{ONE}5E-1\n", 0.5),
    "whole numbers with a point": (f"{HEAD}latency_ms\n{ONE.replace('8,8,8', '8.0,8,8')}1\n", 1.0),
    "quotes": (f'{HEAD}latency_ms\n{ONE}"0.5"\n', 0.5),
    "a decimal comma": (f'{HEAD}latency_ms\n{ONE}"0,5"\n', says("row 1: latency_ms.*a decimal p")),
    "a comma as a cell": (f"{HEAD}latency_ms\n{ONE}0,5\n", says("row 1 has 12 cells where the")),
    "thousands": (f'{HEAD}latency_ms\n{ONE}"1,234,567"\n', says("no marks between thousands")),
    "thousands of the Swiss": (f"{HEAD}latency_ms\n{ONE}1'234.5\n", says("no marks between thou")),
    "a unit": (f"{HEAD}latency_ms\n{ONE}0.5ms\n", says("the unit stands in the column's name")),
    "per cent": (f"{HEAD}latency_ms\n{ONE}50%\n", says("row 1: latency_ms is '50%'; prices are")),
    "a mark for nothing": (f"{HEAD}latency_ms\n{ONE}-\n", says("row 1: latency_ms is '-'")),
    "a mark between digits": (f"{HEAD}latency_ms\n{ONE}1_0\n", says("row 1: latency_ms is '1_0'")),
    "a column twice": (f"{HEAD}latency_ms,latency_ms\n{ONE}1,2\n", says("column latency_ms twice")),
    "semicolons": (f"{HEAD}latency_ms\n{ONE}1\n".replace(",", ";"), says("separates its columns")),
    "a channel and a half": (
        f"{HEAD}latency_ms\n{ONE.replace('3,8', '3.5,8', 1)}1\n",
        says("row 1: in_channels is '3.5'; it must be a whole number from 1"),
    ),
    "no channel": (
        f"{HEAD}latency_ms\n{ONE.replace('3,8', '0,8', 1)}1\n", says("row 1: in_channels is '0'")
    ),
    "another word for a layer": (
        f"{HEAD}latency_ms\n{ONE.replace('conv', 'Conv2d')}1\n", says("row 1: op is 'Conv2d'; all")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRICES)
def test_lookup_tables(tmp_path, name):
    text, expected = PRICES[name]
    path = tmp_path / "t.csv"
    path.write_text(text)
    check(lambda: LookupTable.read(path).prices["latency_ms"].tolist()[0], expected)
    check(lambda: import_columns(path).prices["latency_ms"].tolist()[0], expected)


def test_an_import_drops_what_its_header_said_of_other_units_and_rows(tmp_path, tiny_space):
    made = build_table(tiny_space, load_cost_model("bitfusion-apq"))
    made.write(tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text().replace("latency_ms", "latency_us")
    (tmp_path / "b.csv").write_text(text)
    check(lambda: LookupTable.read(tmp_path / "b.csv"), says("unknown column latency_us"))
    import_columns(tmp_path / "b.csv").write(tmp_path / "c.csv")
    read = LookupTable.read(tmp_path / "c.csv")
    np.testing.assert_allclose(
        read.prices["latency_ms"], made.prices["latency_ms"] / 1e3, rtol=1e-9
    )


@pytest.mark.parametrize("cell", ["", "nan", "-1", "0", "5ms", "0,5"])
def test_measured_networks(tmp_path, tiny_space, cell):
    names = [axis.name for axis in tiny_space.axes]
    values = [str(axis.choices[0]) for axis in tiny_space.axes]
    path = tmp_path / "n.csv"
    path.write_text(f'{",".join(names)},latency_ms\n{",".join(values)},"{cell}"\n')
    check(
        lambda: read_networks(path, tiny_space),
        says(r"n\.csv, row 1: latency_ms must be positive and finite"),
    )


# ---- samples -------------------------------------------------------------------------------------


def test_samples_in_any_folder(tmp_path, tiny_space):
    genes = tiny_space.sample(6, np.random.default_rng(0))
    measured = {
        "accuracy": [0.5] * 6, "loss": [1.0] * 6, "scheme": ["uniform"] * 6, "seed": [0] * 6,
        "finetune_steps": [0] * 6, "images": [10] * 6, "seconds": [0.1] * 6,
    }  # fmt: skip
    folder = tmp_path / "my [samples] 50% \u00e9"
    write_part(folder / "part-0.parquet", tiny_space, genes, measured, "quantized", {})
    (folder / "._part-0.parquet").write_bytes(b"\0")
    (folder / "_SUCCESS.parquet").write_bytes(b"")
    assert len(read_samples(folder)) == 6
    (folder / "part-1.parquet").write_bytes(b"")
    check(
        lambda: read_samples(folder),
        says(r"part-1\.parquet is not a readable Parquet file.*Delete"),
    )
    (folder / "part-1.parquet").unlink()
    plain = pq.read_table(folder / "part-0.parquet").to_pandas()
    plain.to_parquet(folder / "part-2.parquet")
    check(lambda: read_samples(folder), says("carries no apq metadata.*--columns"))


# ---- spaces --------------------------------------------------------------------------------------

SPACE = """name = "t"
resolution = 8
classes = 10
[[stages]]
channels = 8
stride = 1
depth = [1, 2]
kernel = [3, 5]
expand = [2, 3]
width_step = 8
"""
ORDER = "must be ascending, positive and finite"
SPACES = {
    "nan": ("[2, 3]", "[nan]", says(r"stages\[0\]\.expand\[0\] is nan, must be a finite number")),
    "inf": ("[2, 3]", "[2, +inf]", says(r"stages\[0\]\.expand\[1\] is inf, must be a finite")),
    "below 0": ("[2, 3]", "[-1, 2]", says(rf"expand = \[-1.0, 2.0\] {ORDER}")),
    "a choice twice": ("[3, 5]", "[3, 3]", says(rf"kernel = \[3, 3\] {ORDER}")),
    "a choice twice, as a fraction": ("[2, 3]", "[2, 2.0]", says(rf"= \[2.0, 2.0\] {ORDER}")),
    "a depth twice": ("[1, 2]", "[1, 1]", says(rf"depth = \[1, 1\] {ORDER}")),
    "backwards": ("[3, 5]", "[5, 3]", says(rf"kernel = \[5, 3\] {ORDER}")),
    "no choice": (
        "[3, 5]", "[]", says(r"space: stages\[0\]\.kernel has 0 entries, must be at least 1\.$")
    ),
    "no list": ("[3, 5]", "3", says(r"stages\[0\]\.kernel is 3, must be a list")),
    "true as a number": (
        "[3, 5]", "[true]", says(r"stages\[0\]\.kernel\[0\] is True, must be a whole number\.$")
    ),
    "no name": ('"t"', '""', says("name is '', must be text that is more than blanks")),
    "a name of blanks": ('"t"', '" "', says("name is ' ', must be text that is more than blanks")),
    "true as a size": ("classes = 10", "classes = true", says("classes is True, must be a whole")),
    "a fraction": ("classes = 10", "classes = 10.0", says("classes is 10.0, must be a whole")),
    "text": ("classes = 10", 'classes = "10"', says("classes is '10', must be a whole number")),
    "a day": ("classes = 10", "classes = 1979-05-27", says("classes is datetime.*must be a whole")),
    "none": ("classes = 10", "classes = 0", says("classes = 0 must be between 2 and 65536")),
    "huge": ("classes = 10", f"classes = {10**20}", says("classes = 1000.* must be between 2 and")),
    "endless": ("classes = 10", f"classes = {'9' * 4000}", says("classes has more than 40 digits")),
    "more than Python reads": ("classes = 10", f"classes = {'9' * 5000}", says("is not valid TOM")),
    "twice": ("classes = 10", "classes = 10\nclasses = 9", says("TOML: Cannot overwrite a value")),
    "hexadecimal": ("resolution = 8", "resolution = 0x8", 4),
    "a field too many": (
        "classes = 10", "classes = 10\nclases = 3", says("'clases'. Did you mean 'classes'?")
    ),
    "a field too many in a stage": (
        "stride = 1", "stride = 1\nkernels = [3]", says("field 'kernels' in stages.*'kernel'")
    ),
    "no stride": ("stride = 1\n", "", says(r"stages\[0\] lacks stride")),
    "stride 0": ("stride = 1", "stride = 0", says(r"stages\[0\]\.stride = 0 must be")),
    "even kernels": ("[3, 5]", "[3, 4]", says(r"kernel = \[3, 4\] must be odd sizes")),
    "a stage for stages": ("[[stages]]", "[stages]", says("stages is .*, must be a list")),
    "no bits": ("[[stages]]", "[bits]\npw_w = []\n[[stages]]", says("bits.pw_w has 0 entries")),
    "bits twice": (
        "[[stages]]", "[bits]\npw_w = [8, '8']\n[[stages]]", says(r"pw_w = \[8, 8\] must be disti")
    ),
    "bits as a fraction": (
        "[[stages]]", "[bits]\npw_w = [4.5]\n[[stages]]", says("unknown number format 4.5. Allowed")
    ),
    "too many bits": (
        "[[stages]]", "[bits]\npw_w = [64]\n[[stages]]", says("unknown number format 64. Allowed")
    ),
    "an empty rule": ("[[stages]]", "[[exclude]]\n[[stages]]", says("exclude = {} must be over")),
    "tiny widths": ("[2, 3]", "[1e-9]", says("must be at least 1 hidden channel")),
    "giant widths": ("[2, 3]", "[1e300]", says("must be at most 65536 hidden channels")),
    "a byte-order mark": ("name", "\ufeffname", 4),
}  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_spaces(tmp_path, name):
    old, new, expected = SPACES[name]
    assert old in SPACE
    path = tmp_path / "s.toml"
    path.write_text(SPACE.replace(old, new, 1), encoding="utf-8")
    refused = says(rf"^{path}.*{expected.pattern}") if isinstance(expected, says) else expected
    check(lambda: len(load_space(str(path)).slots[0].choices) - 2, refused)


# ---- budgets -------------------------------------------------------------------------------------

PLAIN = says(r"is not a number; give plain numbers as in 0\.5 \(milliseconds\)")
BUDGETS = {
    "0.5": [0.5],
    " .5 ": [0.5],
    "5e-1": [0.5],
    "4,6,8": [4.0, 6.0, 8.0],
    "0.5,0.50": [0.5],
    "0.4:0.6:0.1": [0.4, 0.5, 0.6],
    "0,5": says("'0,5' is read as the budgets 0, 5.*decimals have a point: 0.5"),
    "5ms": PLAIN,
    "5 ms": PLAIN,
    "0_5": PLAIN,
    "0x1": PLAIN,
    "": PLAIN,
    "1,,2": PLAIN,
    "half": PLAIN,
    "<=1": PLAIN,
    "1:2": says("a range is FIRST:LAST:STEP, got '1:2'"),
    "1:2:0": says("a range is FIRST:LAST:STEP"),
    "2:1:1": says("a range is FIRST:LAST:STEP"),
    "1:nan:1": says("'1:nan:1' is not finite"),
    "0:1e9:1e-9": says("at most 100,000 are searched"),
}


@pytest.mark.parametrize("text", BUDGETS)
def test_budgets(text):
    check(lambda: numbers("latency_ms", text), BUDGETS[text])


@pytest.mark.parametrize(
    "text", ["latency_ms", "latency_ms@a=", "latency_ms@a=0_5", "a=1=2", "a=5ms"]
)
def test_limits_of_devices(text):
    check(lambda: per_device([text]), says("is not COST=NUMBER"))


@pytest.mark.parametrize("text", ["nan", "-1", "1e400", "-inf", "0", "1e-400"])
def test_budgets_that_are_no_budgets_are_answered_with_the_range(tmp_path, text):
    words = ["--size-mb", text, "--out", str(tmp_path / "run"), "--space", "digits"]
    result = CliRunner().invoke(app, ["search", *words], env={"COLUMNS": "300"})
    assert result.exit_code == 1
    assert re.search(r"size_mb must be a positive number, got \S+; reachable.* … ", result.output)
    assert not (tmp_path / "run").exists()


def test_a_space_s_name_leads_to_no_other_folder(tmp_path, monkeypatch):
    inside = tmp_path / "in/side"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    (inside / "s.toml").write_text(SPACE.replace('"t"', '"a/../../../x"'))
    result = CliRunner().invoke(app, ["lut", "build", "--space", "s.toml"])
    assert result.exit_code == 0, result.output
    assert [p.parent for p in tmp_path.rglob("*.csv")] == [inside / "lut"]
