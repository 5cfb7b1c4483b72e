"""Parquet files with several columns of labels or pictures, and the order of listings."""

from __future__ import annotations

import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from apq.cli import app
from apq.errors import ImagesError
from apq.images import load_images
from apq.images.sets import chosen_columns

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ROWS = 40


def picture(i: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((8, 8), i, dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def cifar100(path: Path, names: bool = True, **more: pa.Array) -> Path:
    """CIFAR-100's columns: four fine classes in two coarse ones."""
    features = {
        "fine_label": {"names": ["cod", "eel", "oak", "elm"], "_type": "ClassLabel"},
        "coarse_label": {"names": ["fish", "tree"], "_type": "ClassLabel"},
    }
    columns = {
        "img": pa.array([{"bytes": picture(i), "path": None} for i in range(ROWS)], STRUCT),
        "fine_label": pa.array([i % 4 for i in range(ROWS)]),
        "coarse_label": pa.array([i % 4 // 2 for i in range(ROWS)]),
        **more,
    }
    table = pa.table(columns)
    if names:
        told = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(told)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def classes(source: str) -> dict[int, str]:
    """Name of the class by the grey of the picture."""
    found = load_images(source, 8, 1)
    parts = (found.splits[s] for s in ("train", "validation", "test"))
    return {
        int(p[0, 0, 0]): found.classes[label]
        for images, labels in parts
        for p, label in zip(images, labels, strict=True)
    }


@pytest.mark.parametrize("names", [True, False])
def test_the_column_that_was_chosen_is_read(tmp_path, names):
    cifar100(tmp_path / "data/train-00000-of-00001.parquet", names)
    fine, coarse = (classes(f"{tmp_path}::label={name}_label") for name in ("fine", "coarse"))
    words = ("cod", "eel", "oak", "elm") if names else "0123"
    assert fine == {i: words[i % 4] for i in range(ROWS)}
    words = ("fish", "tree") if names else "01"
    assert coarse == {i: words[i % 4 // 2] for i in range(ROWS)}
    assert classes(f"{tmp_path}::image=img,label=fine_label") == fine


@pytest.mark.parametrize("names", [True, False])
def test_several_columns_of_labels_are_listed(tmp_path, names):
    file = cifar100(tmp_path / "train.parquet", names)
    told = (
        rf"columns of labels \(fine_label, coarse_label\); choose one: --images {file}::label=fine"
    )
    with pytest.raises(ImagesError, match=told):
        load_images(str(file), 8, 1)
    (choice,) = [word for word in str(_error(str(file))).split() if "::" in word]
    assert len(set(classes(choice).values())) == 4


def _error(source: str) -> ImagesError:
    with pytest.raises(ImagesError) as caught:
        load_images(source, 8, 1)
    return caught.value


def test_several_columns_of_pictures_are_listed_and_chosen(tmp_path):
    other = pa.array([{"bytes": picture(255 - i), "path": None} for i in range(ROWS)], STRUCT)
    file = cifar100(tmp_path / "a.parquet", mask=other)
    told = str(_error(f"{file}::label=fine_label"))
    assert "several columns of pictures (img, mask)" in told
    assert f"--images {file}::image=img" in told
    assert min(classes(f"{file}::image=mask,label=fine_label")) == 256 - ROWS
    assert max(classes(f"{file}::image=img,label=fine_label")) == ROWS - 1


def test_label_needs_no_choice_beside_others(tmp_path):
    file = cifar100(tmp_path / "a.parquet", False, label=pa.array([i % 2 for i in range(ROWS)]))
    assert classes(str(file)) == {i: "01"[i % 2] for i in range(ROWS)}


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ("label=fine", "has no column 'fine' for label; it has coarse_label, fine_label, img"),
        ("image=coarse_label,label=fine_label", "'coarse_label' holds int64; images are bytes"),
        ("labels=fine_label", "chooses columns by 'labels=fine_label'; write them as"),
        ("fine_label", "chooses columns by 'fine_label'"),
        ("label=", "chooses columns by 'label='"),
        ("label=fine_label,label=coarse_label", "chooses columns by 'label=coarse_label'"),
        ("label=img,image=img", "cannot hold both the images and the labels"),
        ("", "chooses columns by ''"),
    ],
)
def test_choices_that_cannot_be_are_refused(tmp_path, chosen, told):
    file = cifar100(tmp_path / "a.parquet")
    assert told in str(_error(f"{file}::{chosen}"))


def test_columns_are_of_parquet_files_alone(tmp_path):
    for i in range(20):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / f"photos/{'ab'[i % 2]}/{i}.png").write_bytes(picture(i))
    assert "has no columns" in str(_error(f"{tmp_path}/photos::label=x"))
    assert "'digits' has no columns" in str(_error("digits::label=x"))
    assert f"no images at '{tmp_path}/absent'" in str(_error(f"{tmp_path}/absent::label=x"))


def test_a_column_that_stands_there_twice_is_refused(tmp_path):
    arrays = [pa.array([{"bytes": picture(i), "path": None} for i in range(ROWS)], STRUCT)]
    arrays += [pa.array([i % 2 for i in range(ROWS)])] * 2
    table = pa.Table.from_arrays(arrays, names=["image", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "has column 'label' 2 times" in str(_error(str(tmp_path / "a.parquet")))


def test_a_path_with_the_mark_in_it_is_a_path(tmp_path):
    file = cifar100(tmp_path / "a::b.parquet", False, label=pa.array([i % 2 for i in range(ROWS)]))
    assert chosen_columns(str(file)) == (str(file), {})
    assert len(set(classes(f"{file}::label=fine_label").values())) == 4


def test_another_column_is_another_image_set_for_what_was_trained(tmp_path, tiny_space):
    from apq.cli.common import images_for
    from apq.errors import ModelError

    file = cifar100(tmp_path / "a.parquet", False, ten=pa.array([i % 10 for i in range(ROWS)]))
    fine = load_images(f"{file}::label=fine_label", 8, 1)
    coarse = load_images(f"{file}::label=coarse_label", 8, 1)
    assert fine.name == "a.parquet::label=fine_label"
    assert fine.digest() != coarse.digest()
    made = {"image_set": coarse.name, "images": coarse.digest()}
    with pytest.raises(ModelError, match=r"made with the images a\.parquet::label=coarse_label"):
        images_for(f"{file}::label=ten", tiny_space, made, "the supernet", other=False)


def test_commands_take_the_choice(tmp_path):
    ten = pa.array([i % 10 for i in range(ROWS)])
    file = cifar100(tmp_path / "a.parquet", False, ten=ten)
    command = ["train-supernet", "--space", "digits", "--epochs", "0.01", "--out"]
    out = str(tmp_path / "n.safetensors")
    result = CliRunner().invoke(app, [*command, out, "--images", str(file)])
    assert result.exit_code == 1
    assert "choose one" in result.output
    result = CliRunner().invoke(app, [*command, out, "--images", f"{file}::label=ten"])
    assert result.exit_code == 0, result.output


def backwards(monkeypatch):
    """Make the system list everything in reverse order."""
    listed, globbed, walked = Path.iterdir, Path.glob, os.walk

    def walk(top, *args, **kwargs):
        for where, folders, files in walked(top, *args, **kwargs):
            files.reverse()
            folders.reverse()
            yield where, folders, files

    monkeypatch.setattr(Path, "iterdir", lambda self: iter([*listed(self)][::-1]))
    monkeypatch.setattr(Path, "glob", lambda self, *a, **k: iter([*globbed(self, *a, **k)][::-1]))
    monkeypatch.setattr(os, "walk", walk)


@pytest.mark.parametrize("layout", ["folders", "parts", "files", "repository"])
def test_splits_do_not_depend_on_the_order_of_listings(tmp_path, monkeypatch, layout):
    labels = pa.array([i % 2 for i in range(ROWS)])
    if layout in ("files", "repository"):
        below = "data/" if layout == "repository" else ""
        for i in range(4):
            cifar100(tmp_path / f"{below}train-{i}.parquet", label=labels)
    else:
        roots = ("train/", "test/") if layout == "parts" else ("",)
        for i in range(ROWS):
            for root in roots:
                folder = tmp_path / f"{root}{'cb'[i % 2]}/{'zy'[i % 3 % 2]}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{i:02}.png").write_bytes(picture(i))
            (tmp_path / f"{roots[0]}b/note.txt").parent.mkdir(exist_ok=True)
            (tmp_path / f"{roots[0]}b/note.txt").write_text("")
    first = load_images(str(tmp_path), 8, 1)
    backwards(monkeypatch)
    again = load_images(str(tmp_path), 8, 1)
    assert again.digest() == first.digest()
    assert (again.classes, again.describe()) == (first.classes, first.describe())


def test_accents_in_one_piece_or_two_make_the_same_set(tmp_path):
    made = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        for i in range(30):
            name = unicodedata.normalize(form, ("éa", "ez", "f")[i % 3])
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f"{i:02}.png").write_bytes(picture(i))
        made.append(load_images(str(root), 8, 1))
    assert made[0].classes == made[1].classes == ("ez", "f", "éa")
    assert made[0].digest() == made[1].digest()
    twin = tmp_path / "NFC" / unicodedata.normalize("NFD", "éa")
    twin.mkdir()
    (twin / "0.png").write_bytes(picture(0))
    assert "two class folders that are both called 'éa'" in str(_error(str(tmp_path / "NFC")))
