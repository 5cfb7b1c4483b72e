"""The samples table: columns, checks, and what a damaged folder says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apq.errors import SamplesError, SpaceError
from apq.samples import by_choice, read_samples, schema, write_part
from apq.space import load_space


def write(folder, space, count=4, precision="fp32", start=0, accuracy=None, **metadata):
    genes = space.sample(count, np.random.default_rng(start))
    values = accuracy or [0.5 + 0.01 * i for i in range(count)]
    measured = {
        "accuracy": values, "loss": [1.0] * count, "finetune_steps": [0] * count,
        "scheme": [None if precision == "fp32" else "uniform"] * count,
        "images": [100] * count, "seed": [0] * count, "seconds": [0.1] * count,
    }  # fmt: skip
    made = {"supernet": "abc", "images": "def", "seed": 0} | metadata
    path = folder / f"part-{start:06d}-{start + count:06d}.parquet"
    write_part(path, space, genes, measured, precision, made)
    return path, genes


def test_pandas_reads_the_documented_columns(tmp_path):
    space = load_space("digits")
    _, genes = write(tmp_path, space, precision="quantized")
    frame = pd.read_parquet(tmp_path)
    assert list(frame.columns) == schema(space).names
    assert list(frame.columns[:14]) == [
        "accuracy", "loss", "precision", "scheme", "finetune_steps", "images", "seed", "seconds",
        "macs", "params", "bitops", "size_bytes", "depth_0", "depth_1",
    ]  # fmt: skip
    candidate = space.build(genes[0])
    assert frame["b00_width"][0] == candidate["b00_width"]
    assert frame["b00_dw_a_bits"][0] == candidate["b00_dw_a_bits"]
    skipped = ~space.active(genes)
    for slot in space.slots:
        column = frame[f"b{slot.index:02d}_kernel"]
        assert np.array_equal(column.isna(), skipped[:, slot.index])
    layers = space.layers(candidate)
    assert frame["macs"][0] == sum(
        x.in_channels // x.groups * x.out_channels * x.kernel**2 * (-(-x.height // x.stride)) ** 2
        for x in layers
    )


def test_reading_gives_back_what_was_written(tmp_path):
    space = load_space("digits")
    _, genes = write(tmp_path, space, 6, "quantized")
    samples = read_samples(tmp_path, space)
    assert np.array_equal(samples.genes, genes)
    assert samples.accuracy.tolist() == [0.5 + 0.01 * i for i in range(6)]
    assert samples.supernet == "abc"
    write(tmp_path / "fp32", space, 6)
    fp32 = read_samples(tmp_path / "fp32")
    bits = fp32.frame.filter(like="_bits")
    assert bits.isna().all().all()
    assert set(fp32.precision) == {"fp32"}


def test_bad_folders_get_clear_errors(tmp_path):
    space = load_space("digits")
    with pytest.raises(SamplesError, match="apq collect"):
        read_samples(tmp_path / "none")
    path, _ = write(tmp_path, space)
    with pytest.raises(SpaceError, match="resolution"):
        read_samples(tmp_path, load_space("cifar10"))
    write(tmp_path, space, start=4, supernet="another")
    with pytest.raises(SamplesError, match=r"(?s)do not belong together.*another"):
        read_samples(tmp_path)
    (tmp_path / "part-000004-000008.parquet").unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SamplesError, match="not a readable Parquet file"):
        read_samples(tmp_path)
    path.write_bytes(whole)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["b00_width", "loss"]), path)
    with pytest.raises(SamplesError, match=r"lacks 2 column\(s\): loss, b00_width"):
        read_samples(tmp_path)
    pq.write_table(pa.table({"accuracy": [0.5]}), path)
    with pytest.raises(SamplesError, match="no apq metadata"):
        read_samples(tmp_path)


def test_only_files_of_apq_are_to_be_deleted(tmp_path):
    whole = write(tmp_path, load_space("digits"))[0].read_bytes()
    (tmp_path / "part-000004-000008.parquet").write_bytes(whole[:100])
    with pytest.raises(
        SamplesError, match=r"not a readable Parquet.*Delete it and run apq collect"
    ):
        read_samples(tmp_path)
    for name, data in (("note.txt", b"hello"), ("t.csv", b"a,b\n1,2\n" * 9), ("x.parquet", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            SamplesError, match=r"not a readable Parquet.*elsewhere needs"
        ) as refused:
            read_samples(tmp_path / name)
        assert "Delete" not in str(refused.value)
    front = pa.table({"accuracy": [0.5]}).replace_schema_metadata({"apq": "1.0"})
    pq.write_table(front, tmp_path / "front.parquet")
    with pytest.raises(SamplesError, match="a table of apq, but not of samples") as refused:
        read_samples(tmp_path / "front.parquet")
    assert "Delete" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), -0.1, 87.5])
def test_accuracies_that_cannot_be_are_refused(tmp_path, value):
    write(tmp_path, load_space("digits"), accuracy=[0.5, value, 0.6, 0.7])
    with pytest.raises(SamplesError, match="row 1 has accuracy"):
        read_samples(tmp_path)


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path, monkeypatch):
    space = load_space("digits")
    path, _ = write(tmp_path, space)
    before = path.read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", refuse)
    with pytest.raises(SamplesError, match=r"No space left on device.*run the same command again"):
        write(tmp_path, space)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_accuracy_by_choice_is_the_mean_over_the_samples_that_chose_it(tiny_space, tmp_path):
    genes = tiny_space.sample(60, np.random.default_rng(0))
    values = tiny_space.values(genes)
    kernels = np.stack([v for k, v in values.items() if k.endswith("_kernel")], axis=1)
    large = np.nanmean(np.where(np.isnan(kernels), np.nan, kernels == kernels[0, 0]), axis=1)
    accuracy = 0.5 + 0.1 * large  # decided by the share of blocks with one kernel alone
    n = len(genes)
    measured = {"accuracy": accuracy, "loss": [0.0] * n, "scheme": [None] * n, "images": [9] * n,
                "finetune_steps": [0] * n, "seed": [0] * n, "seconds": [0.0] * n}  # fmt: skip
    write_part(tmp_path / "part-000000-000060.parquet", tiny_space, genes, measured, "fp32", {})
    table = by_choice(read_samples(tmp_path)).set_index(["attribute", "choice"])
    mean = table.loc[("kernel", int(kernels[0, 0]))]
    assert mean["accuracy"] == pytest.approx((accuracy * large).sum() / large.sum())
    assert mean["share"] == pytest.approx(large.mean())
    for _, rows in table.groupby("attribute"):
        assert rows["share"].sum() == pytest.approx(1)
        assert (rows["accuracy"] * rows["share"]).sum() == pytest.approx(accuracy.mean())


def test_samples_of_a_diverged_network_and_damaged_pages_are_refused(tmp_path, tiny_space):
    genes = tiny_space.sample(20, np.random.default_rng(0))
    measured = {
        "accuracy": np.linspace(0.1, 0.9, 20), "loss": np.full(20, 1.0), "scheme": ["none"] * 20,
        "finetune_steps": [0] * 20, "images": [100] * 20, "seed": [0] * 20, "seconds": [1.0] * 20,
    }  # fmt: skip
    path = tmp_path / "part-000000-000020.parquet"
    write_part(path, tiny_space, genes, measured, "fp32", {})
    good, kept = path.read_bytes(), read_samples(path).frame
    found = 0
    for place in range(4, len(good) // 2, 17):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            pd.testing.assert_frame_equal(read_samples(path).frame, kept)
        except SamplesError:
            found += 1
    assert found > 10
    measured["loss"][7] = np.nan
    write_part(path, tiny_space, genes, measured, "fp32", {})
    with pytest.raises(SamplesError, match="row 7 has loss nan"):
        read_samples(path)


def test_in_the_shipped_samples_with_2_and_3_bits_bits_matter():
    folder = Path(__file__).parents[1] / "data"
    space = load_space("cifar10-low-bits")
    samples = read_samples(folder / "cifar10-low-bits" / "quantized", space)
    cheap = read_samples(folder / "cifar10" / "fp32", space)  # of the same architectures
    assert cheap.space == space
    assert cheap.supernet == samples.supernet
    formats = np.array([axis.is_format for axis in space.axes])
    _, of = np.unique(samples.genes[:, ~formats], axis=0, return_inverse=True)
    groups = [samples.accuracy[of == i] for i in np.unique(of) if (of == i).sum() > 5]
    assert len(groups) >= 10
    over_policies = np.mean([group.std(ddof=1) for group in groups])
    over_architectures = np.std([group.mean() for group in groups], ddof=1)
    assert over_policies > 0.5 * over_architectures
