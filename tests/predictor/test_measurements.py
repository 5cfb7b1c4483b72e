"""Accuracies that somebody else has measured teach a predictor; what a table lacks is named."""

import json

import numpy as np
import pandas as pd
import pytest
from commands import run

from apq.errors import SamplesError
from apq.predictor import load_predictor
from apq.predictor.measurements import read_measurements


def table(space, rows: int, formats: bool = False) -> pd.DataFrame:
    """Networks as their owner would list them: blocks that are not there have empty cells."""
    genes = space.sample(rows, np.random.default_rng(0))
    columns = {k: v for k, v in space.values(genes).items() if formats or "bits" not in k}
    frame = pd.DataFrame(columns).drop_duplicates()
    rng = np.random.default_rng(1)
    accuracy = 0.5 + 0.1 * frame["depth_0"] + 0.01 * frame["b00_kernel"]
    return frame.assign(net=range(len(frame)), accuracy=accuracy + 0.001 * rng.random(len(frame)))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("formats", [False, True])
def test_rows_are_candidates_of_the_space(tiny_space, tmp_path, suffix, formats):
    frame = table(tiny_space, 60, formats)
    path = tmp_path / f"mine.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    samples = read_measurements(path, tiny_space)
    assert samples.accuracy == pytest.approx(frame["accuracy"].to_numpy())
    assert set(samples.precision) == {"quantized" if formats else "fp32"}
    values = tiny_space.values(samples.genes)
    for name in ("depth_0", "b00_kernel", "b01_width"):
        assert pd.Series(values[name]).equals(pd.Series(frame[name].to_numpy())), name


def test_a_predictor_is_trained_on_them_by_the_command(tiny_space, tmp_path):
    from apq.space.describe import to_toml

    space, path = tmp_path / "mine.toml", tmp_path / "mine.csv"
    space.write_text(to_toml(tiny_space.to_dict()))
    frame = table(tiny_space, 80)
    frame.to_csv(path, index=False)
    out = tmp_path / "p.safetensors"
    words = ("--samples", path, "--space", space, "--no-compare", "--out", out, "--json")
    told = json.loads(run("train-predictor", *words))
    assert told["counts"] == {"fp32": len(frame)}
    mean, _ = load_predictor(out).predict(read_measurements(path, tiny_space).genes)
    assert np.corrcoef(mean, frame["accuracy"])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: f.drop(columns="b00_kernel").assign(b00_kernl=3),
         r"lacks 1 column\(s\) of space 'tiny': b00_kernel\. Is 'b00_kernl' meant"),
        (lambda f: f.drop(columns="accuracy"), r"lacks 1 .*: accuracy\. "),
        (lambda f: f.assign(accuracy=100 * f["accuracy"]), "per cent, divide them by 100"),
        (lambda f: f.assign(accuracy="0,71"), r"'0,71' in row 0"),
        (lambda f: f.assign(b00_kernel=4), r"row 0: .*kernel"),
        (lambda f: f[:0], "has no rows"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_named(tiny_space, tmp_path, change, why):
    path = tmp_path / "mine.csv"
    change(table(tiny_space, 30)).to_csv(path, index=False)
    with pytest.raises(SamplesError, match=rf"mine\.csv.*{why}"):
        read_measurements(path, tiny_space)
