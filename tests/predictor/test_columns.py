import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from apq.cli import app
from apq.errors import ApqError, SamplesError
from apq.predictor import COLUMNS, load_columns, load_predictor, read_table, train_on_table
from apq.predictor.columns import Columns, ColumnsTable, TableFeatures, stage_counts
from apq.predictor.metrics import pairwise_accuracy
from apq.predictor.training import PRESETS, data_of, learn, rescaled
from apq.space import load_space
from apq.space.layer import layer_array, macs, weight_count

DESCRIPTION = """
target = "score"
choices = ["k_*", "w_*"]
costs = ["flops"]
unit = 0.01
"""


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"k_{i}": rng.choice([3, 5], 60) for i in range(3)})
    for i in range(3):
        frame[f"w_{i}"] = rng.choice([0, 16, 32], 60)
    frame["flops"] = 100.0 + frame.filter(like="w_").sum(axis=1)
    frame["score"] = 60 + 5 * np.log(frame["flops"]) + frame["k_1"] + 0.05 * rng.normal(size=60)
    return frame


@pytest.fixture
def described(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(DESCRIPTION)
    return path


def test_a_table_is_learnt_saved_and_scored_by_the_commands(table, described, tmp_path):
    table[:45].to_parquet(tmp_path / "train.parquet")
    table[45:].to_csv(tmp_path / "other.csv", index=False)
    out = tmp_path / "p.safetensors"
    run = CliRunner().invoke(
        app,
        ["train-predictor", "--samples", str(tmp_path / "train.parquet"), "--columns",
         str(described), "--out", str(out), "--json"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)["held_out"]["table"]
    assert report["this predictor"]["pairwise"] > 0.9
    run = CliRunner().invoke(
        app,
        ["predict", "--predictor", str(out), "--samples", str(tmp_path / "other.csv"), "--out",
         str(tmp_path / "scored.parquet"), "--json"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    scored = pd.read_parquet(tmp_path / "scored.parquet")
    assert json.loads(run.stdout)["pairwise"] == pytest.approx(
        pairwise_accuracy(scored["predicted"], table["score"][45:])
    )
    assert abs(scored["predicted"] - scored["score"]).mean() < 1.0  # in the table's own unit
    unmeasured = table.drop(columns="score")
    assert len(load_predictor(out).predict(unmeasured)[0]) == 60


def test_repeats_of_a_candidate_are_averaged(table, described):
    columns = load_columns(str(described))
    noisy = pd.concat([table.assign(score=table.score - 1), table.assign(score=table.score + 1)])
    twice = train_on_table(noisy, columns, compare=False)
    once = train_on_table(table, columns, compare=False)
    assert twice.report["counts"] == once.report["counts"]
    np.testing.assert_allclose(twice.predict(table)[0], once.predict(table)[0], atol=1e-4)


def test_a_choice_never_seen_is_answered_with_more_doubt(table, described):
    columns = load_columns(str(described))
    predictor = train_on_table(table, columns, compare=False)
    odd = table.assign(w_0=64, flops=table.flops * 3)
    mean, spread = predictor.predict(odd)
    assert np.isfinite(mean).all()
    assert spread.mean() > predictor.predict(table)[1].mean()


def test_bad_tables_are_refused_by_name(table, described, tmp_path):
    columns = load_columns(str(described))
    path = tmp_path / "t.parquet"
    with pytest.raises(SamplesError, match="cannot read table"):
        read_table(path, columns)
    table.drop(columns="flops").to_parquet(path)
    with pytest.raises(SamplesError, match=r"no column flops. It has: k_0"):
        read_table(path, columns)
    table.filter(regex="^(k|flops)").to_parquet(path)
    with pytest.raises(SamplesError, match=r"no column score, w_\*"):
        read_table(path, columns)
    with pytest.raises(SamplesError, match=r"row 3: flops = -1\.0 must be a positive number"):
        train_on_table(table.assign(flops=np.where(np.arange(60) == 3, -1.0, 9.0)), columns)
    with pytest.raises(SamplesError, match=r"5 row\(s\); at least 10"):
        train_on_table(table[:5], columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targt": "x"}, "unknown field 'targt'"),
        ({"target": 3}, "target is 3, must be text"),
        ({"choices": "k_*"}, "choices is 'k_\\*', must be a list"),
        ({"choices": []}, "choices has 0 entries"),
        ({"unit": -1}, "unit is -1, must be more than 0"),
        ({"space": 3}, "space: 3 must be a preset's name or the path"),
        ({"space": "digits", "kernel": "k_*"}, "lacks expand"),
        ({"expand": "x_*"}, "lacks space and kernel"),
    ],
)
def test_bad_descriptions_are_refused_by_field(change, message):
    with pytest.raises(SamplesError, match=message):
        ColumnsTable.of({"target": "score", "choices": ["k_*"], **change}, "mine.toml")


def blocks(space, genes):
    """Kernels and multiples of the input channels of every slot, 0 where there is no block."""
    kernel = np.zeros((len(genes), len(space.slots)))
    expand = kernel.copy()
    for row, candidate in enumerate(map(space.build, genes)):
        for slot in space.slots:
            if block := candidate.blocks.get(slot.name):
                channels = space.graph.in_channels(space.block(slot)[0])
                kernel[row, slot.index] = block["kernel"]
                expand[row, slot.index] = block["width"] / channels
    return kernel, expand


def totals(layers):
    rows = [layer_array(**asdict(layer)) for layer in layers]
    return sum(macs(row) for row in rows), sum(weight_count(row) for row in rows)


def test_stages_of_a_table_are_counted_as_those_of_the_space():
    space = load_space("digits")
    genes = space.sample(20, np.random.default_rng(0))
    counts = stage_counts(space, *blocks(space, genes))
    assert counts.shape == (20, 3, 2)
    fixed = totals(space.fixed_layers.values())
    for row, candidate in enumerate(map(space.build, genes)):
        np.testing.assert_array_equal(
            counts[row].sum(axis=0) + fixed, totals(space.layers(candidate))
        )


def test_a_table_whose_network_is_known_is_learnt_from_fewer_rows(tmp_path):
    space = load_space("digits")
    genes = space.sample(160, np.random.default_rng(0))
    kernel, expand = blocks(space, genes)
    names = [f"{kind}_{i}" for kind in ("k", "x") for i in range(len(space.slots))]
    table = pd.DataFrame(np.concatenate([kernel, expand], axis=1), columns=names)
    table["score"] = np.log(stage_counts(space, kernel, expand)[:, :, 0]).sum(axis=1)
    (tmp_path / "space.toml").write_text("name = 'no space'")
    plain = tmp_path / "plain.toml"
    plain.write_text('target = "score"\nchoices = ["k_*", "x_*"]\n')
    known = tmp_path / "known.toml"
    more = 'space = "digits"\nkernel = "k_*"\nexpand = "x_*"\n'
    known.write_text(plain.read_text() + more)
    right = []
    for path in (plain, known):
        predictor = train_on_table(table[:60], load_columns(str(path)), compare=False)
        predictor.save(tmp_path / "p.safetensors")
        again = load_predictor(tmp_path / "p.safetensors")
        mean = again.predict(table[60:])[0]
        np.testing.assert_array_equal(mean, predictor.predict(table[60:])[0])
        right.append(pairwise_accuracy(mean, table["score"][60:].to_numpy()))
    assert right[1] > right[0] + 0.015
    with pytest.raises(SamplesError, match="has 6 block slots, and 5 columns of choices match"):
        train_on_table(table.drop(columns="k_3"), load_columns(str(known)), compare=False)
    known.write_text(plain.read_text() + more.replace("digits", "space.toml"))
    with pytest.raises(ApqError, match=r"space\.toml"):
        load_columns(str(known))


def test_unknown_tables_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(ApqError, match="Did you mean 'ofa-mobilenet-v3'"):
        load_columns("ofa-mobilenetv3")
    with pytest.raises(SamplesError, match="cannot read"):
        load_columns(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("name", "file", "count", "least"),
    [
        ("ofa-mobilenet-v3", "ofa_mbv3_imagenet.parquet", 50, 0.955),
        ("ofa-mobilenet-v3", "ofa_mbv3_imagenet.parquet", 200, 0.976),
        ("accel-nasbench", "accel_nasbench_public.parquet", 50, 0.89),
        ("accel-nasbench", "accel_nasbench_public.parquet", 200, 0.93),
    ],
)
def test_real_measurements_are_ordered_from_few(shared, name, file, count, least):
    """One split; benchmarks/bench_predictor.py has more of them and the peers."""
    columns = COLUMNS[name]
    frame = read_table(shared / "reference/predictor" / file, columns)
    frame = frame.drop_duplicates(columns.group)
    order = np.random.default_rng(0).permutation(len(frame))
    predictor = train_on_table(frame.iloc[order[:count]], columns, compare=False)
    rest = frame.iloc[order[-300:]]
    mean = predictor.predict(rest)[0]
    assert pairwise_accuracy(mean, rest[columns.target].to_numpy()) > least - 0.01


def test_transfer_between_two_schedules_keeps_what_the_cheap_one_knew(shared):
    columns = COLUMNS["accel-nasbench"]
    folder = shared / "reference/predictor"
    cheap = read_table(folder / "accel_nasbench_public.parquet", columns)[:1000]
    dear = read_table(folder / "accel_nasbench_two_fidelity.parquet", columns, target=False)
    long = dear.filter(like="top1_long").mean(axis=1).to_numpy() * columns.unit
    features, recipe = TableFeatures.of(cheap, columns), PRESETS["default"]
    short = cheap[columns.target].to_numpy() * columns.unit
    base = learn(data_of(features.inputs(cheap), short, ""), features, recipe, bits=False)
    everything = data_of(features.inputs(dear), long, "")
    figures = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(dear))
        train, test = everything[order[:20]], everything[order[20:]]
        moved = learn(train, features, recipe, bits=False, base=base)
        scratch = learn(train, features, recipe, bits=False)
        ways = (
            moved.predict_inputs(test.inputs)[0],
            rescaled(base, train, test.inputs, recipe),
            scratch.predict_inputs(test.inputs)[0],
        )
        figures.append([pairwise_accuracy(way, test.accuracy) for way in ways])
    transfer, plain, scratch_only = np.mean(figures, axis=0)
    assert transfer > plain - 0.005
    assert transfer > scratch_only + 0.02


def small_table(**columns) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"ks_{i}": rng.choice([3, 5, 7], 40) for i in range(1, 13)})
    frame["top1"] = 70 + frame.sum(axis=1) / 20 + rng.normal(0, 0.05, 40)
    return frame.assign(**columns)


SMALL = Columns("top1", ("ks_*",), unit=0.01)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("top1", "71,3", r"top1.*'71,3' in row 3"), ("top1", "71.3%", r"'71\.3%' in row 3"),
        ("top1", "", "row 3"), ("top1", None, "row 3"), ("top1", "inf", "no finite number"),
        ("top1", 0.0, "failed run"), ("top1", -1.0, "has -1 in row 3"),
        ("top1", 7100.0, "7100 in row 3"),
        ("ks_2", "conv7x7", r"ks_2.*'conv7x7' in row 3"), ("ks_2", None, "row 3"),
        ("ks_2", "460M", "plain numbers"),
    ],
)  # fmt: skip
def test_cells_that_are_no_numbers_are_named(tmp_path, column, value, message):
    frame = small_table().astype({column: object})
    frame.loc[3, column] = value
    frame.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(SamplesError, match=message):
        read_table(tmp_path / "table.csv", SMALL)


def test_per_cent_is_not_taken_for_fractions(tmp_path):
    small_table().to_parquet(tmp_path / "table.parquet")
    with pytest.raises(SamplesError, match=r"row 0 .*say unit = 0\.01"):
        read_table(tmp_path / "table.parquet", replace(SMALL, unit=1.0))


@pytest.mark.parametrize("text", [" 5 ", "5.0", "5e0", "+5"])
def test_numbers_written_as_text_are_numbers(tmp_path, text):
    frame = small_table(ks_2=[text] * 40)
    frame.to_parquet(tmp_path / "table.parquet")
    assert (read_table(tmp_path / "table.parquet", SMALL)["ks_2"] == 5).all()


def test_the_order_of_a_table_s_columns_does_not_matter(tmp_path):
    frame = small_table()
    seen = []
    for names in (list(frame), sorted(frame), sorted(frame, reverse=True)):
        frame[names].to_csv(tmp_path / "table.csv", index=False)
        table = read_table(tmp_path / "table.csv", SMALL)
        features = TableFeatures.of(table, SMALL)
        assert list(features.values) == [f"ks_{i}" for i in range(1, 13)]
        seen.append(features.inputs(table))
    for other in seen[1:]:
        assert np.array_equal(other.arch_hot, seen[0].arch_hot)
        assert np.array_equal(other.arch, seen[0].arch)


@pytest.mark.parametrize(
    "data",
    [b"", b"ks_1,top1\n", b'"ks_1,top1\n3,70\n', b"\0\0\0", "ks_1,top1\n3,70\n".encode("utf-16"),
     b"\xff\xfe\xfa", b"ks_1;top1\n3;70\n"],
)  # fmt: skip
def test_files_that_are_no_tables_are_refused_in_words(tmp_path, data):
    (tmp_path / "table.csv").write_bytes(data)
    with pytest.raises(SamplesError, match=r"table\.csv"):
        read_table(tmp_path / "table.csv", SMALL)
