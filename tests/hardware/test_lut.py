"""Reading, writing and asking lookup tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apq.errors import TableError
from apq.hardware import LookupTable, build_table, load_cost_model, price_space
from apq.space import Layer, load_space
from apq.space.families.mobilenet_v2 import whole_block
from apq.space.layer import to_array


def table(*layers, latency=None, **fields):
    prices = {"latency_ms": np.array(latency or [float(i + 1) for i in range(len(layers))])}
    return LookupTable("toy", "test", to_array(list(layers)), prices, **fields)


CONV = Layer("conv", 16, 32, 16, 16)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_written_table_reads_back_the_same(tmp_path, tiny_space, ending):
    path = tmp_path / f"table.{ending}"
    made = replace(
        build_table(tiny_space, load_cost_model("bitfusion-apq"), "apq lut build ..."),
        overhead={"latency_ms": 0.125}, leaves_out=("classifier",),
    )  # fmt: skip
    made.write(path)
    read = LookupTable.read(path)
    assert read.describe() == made.describe()
    np.testing.assert_array_equal(read.layers, made.layers)
    for metric, values in made.prices.items():
        np.testing.assert_allclose(read.prices[metric], values, rtol=1e-9)
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_is_written_where_it_can_be_read_again(tmp_path):
    for name in ("toy", "toy.txt"):
        with pytest.raises(TableError, match=r"must end in \.csv or \.parquet"):
            table(CONV).write(tmp_path / name)
        with pytest.raises(TableError, match=r"must end in \.csv or \.parquet"):
            LookupTable.read(tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="cannot write"):
        table(CONV).write(tmp_path / "file" / "toy.csv")


COUNTS = st.integers(1, 2000)
BITS = st.integers(1, 32)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["conv", "linear"]), COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS,
            COUNTS, BITS, BITS,
        ),
        min_size=1, max_size=6, unique=True,
    ),
    latency=st.lists(st.floats(0, 1e9), min_size=6, max_size=6).filter(lambda found: found[0] > 0),
)  # fmt: skip
def test_any_table_survives_its_file(tmp_path, rows, latency):
    made = table(*(Layer(*row) for row in rows), latency=latency[: len(rows)])
    made.write(tmp_path / "any.csv")
    read = LookupTable.read(tmp_path / "any.csv")
    np.testing.assert_array_equal(read.layers, made.layers)
    np.testing.assert_allclose(read.prices["latency_ms"], made.prices["latency_ms"], rtol=1e-9)
    np.testing.assert_array_equal(read.find(made.layers), np.arange(len(rows)))


def test_block_rows_read_back_and_price_a_space(tmp_path, tiny_space):
    rows = []
    graph, sides = tiny_space.graph, tiny_space.graph.sides()
    for factor in tiny_space.factors:
        side = sides[factor.nodes[0].inputs[0]]
        grid = tiny_space.grid(factor)
        rows.append(whole_block(graph, factor.nodes, side, grid).reshape(-1))
    fixed = to_array(list(tiny_space.fixed_layers.values()))
    layers = np.unique(np.concatenate([fixed, *rows]))
    latency = np.random.default_rng(0).random(len(layers))
    made = LookupTable("toy", "test", layers, {"latency_ms": latency}, granularity="block")
    made.write(tmp_path / "blocks.csv")
    read = LookupTable.read(tmp_path / "blocks.csv")
    assert read.granularity == "block"
    genes = tiny_space.sample(20, np.random.default_rng(1))
    one, other = (price_space(tiny_space, t).costs(genes)["latency_ms"] for t in (made, read))
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_a_missing_row_is_nan_and_named_with_the_nearest_three():
    rows = [replace(CONV, weight_bits=w, activation_bits=a) for w in (4, 8) for a in (4, 8)]
    dw = Layer("conv", 16, 16, 16, 16, 3, 1, 16)
    found = table(*rows, dw, path="lut/toy.csv", header={"command": "apq lut build --space mine"})
    missing = to_array([replace(CONV, weight_bits=2, activation_bits=2)])
    assert np.isnan(found.price(missing)["latency_ms"]).all()
    assert found.explain(missing) == (
        "lut/toy.csv has no row for conv1x1/s1 16->32 @16px w2a2.\n"
        "Nearest rows: conv1x1/s1 16->32 @16px w4a4, conv1x1/s1 16->32 @16px w4a8, "
        "conv1x1/s1 16->32 @16px w8a4.\n"
        "This table was made by `apq lut build --space mine`; run it for your space, "
        "or narrow the space to what the table covers."
    )


def test_pricing_a_space_with_a_table_of_another_names_what_is_missing(tiny_space):
    small = build_table(tiny_space, load_cost_model("bitfusion-apq"))
    with pytest.raises(TableError, match="has no row for conv3x3/s1 3->16 @32px w8a8"):
        price_space(load_space("cifar10"), small)


def test_overhead_is_added_once(tiny_space):
    plain = build_table(tiny_space, load_cost_model("bitfusion-apq"))
    genes = tiny_space.sample(5, np.random.default_rng(0))
    more = replace(plain, overhead={"latency_ms": 2.0})
    difference = (
        price_space(tiny_space, more).costs(genes)["latency_ms"]
        - price_space(tiny_space, plain).costs(genes)["latency_ms"]
    )
    np.testing.assert_allclose(difference, 2.0)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_prices_are_refused(value):
    with pytest.raises(TableError, match="finite and not negative"):
        table(CONV, latency=[value])


def test_a_missing_file_says_how_to_build_one(tmp_path):
    with pytest.raises(TableError, match="apq lut build"):
        LookupTable.read(tmp_path / "no.csv")


def test_a_file_that_is_not_parquet(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"hello")
    with pytest.raises(TableError, match="not a Parquet file"):
        LookupTable.read(tmp_path / "x.parquet")


def written(tmp_path, space, ending=".csv"):
    path = tmp_path / f"t{ending}"
    build_table(space, load_cost_model("bitfusion-apq")).write(path)
    return path


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("-1", "finite and not negative"),
        ("inf", "finite and not negative"),
        ("nan", "finite and not negative"),
        ("", "finite and not negative"),
        ("1e300", "at most 1e\\+12"),
        ("1e400", "finite and not negative"),
        ("0x10", "finite and not negative"),
        ("1_000", "finite and not negative"),
        ('"0,5"', "a decimal point"),
        ('"1,234.5"', "no marks between thousands"),
        ("1.234.567", "no marks between thousands"),
        ("5ms", "the unit stands in the column's name"),
        ("0.3 µs", "the unit stands in the column's name"),
    ],
)
def test_a_price_that_cannot_be_is_refused_by_row_and_column(tmp_path, tiny_space, cell, told):
    path = written(tmp_path, tiny_space)
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("op,"))
    lines[start + 3] = ",".join([*lines[start + 3].split(",")[:-2], cell, "1"])
    path.write_text("\n".join(lines))
    with pytest.raises(TableError, match=rf"t\.csv, row 3: latency_ms is .*{told}"):
        LookupTable.read(path)


def test_a_column_of_zeros_says_nothing(tmp_path, tiny_space):
    path = written(tmp_path, tiny_space, ".parquet")
    frame = pd.read_parquet(path)
    frame["energy_mj"] = 0.0
    frame.to_csv(tmp_path / "zero.csv", index=False)
    with pytest.raises(TableError, match=r"energy_mj is 0 in all of its \d+ rows"):
        LookupTable.read(tmp_path / "zero.csv")
    frame.loc[3, "energy_mj"] = 1.0  # some layers may cost nothing
    frame.to_csv(tmp_path / "some.csv", index=False)
    assert LookupTable.read(tmp_path / "some.csv").prices["energy_mj"].sum() == 1.0


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_the_header_carries_the_number_and_the_hash_of_the_rows(tmp_path, tiny_space, ending):
    path = written(tmp_path, tiny_space, ending)
    read = LookupTable.read(path)
    assert not {"rows", "content"} & set(read.describe())
    again = tmp_path / f"again{'.parquet' if ending == '.csv' else '.csv'}"
    read.write(again)
    assert LookupTable.read(again).content() == read.content()


MORE_OR_LESS = r"says that it has \d+ rows, and it has \d+"
ANOTHER = "its header has the hash '"
CHANGES = {
    "a row less": (lambda t: t.rsplit("\n", 2)[0] + "\n", MORE_OR_LESS),
    "a row more": (
        lambda t: t + "conv,3,3,3,3,3,1,1,8,8,1,1\n", MORE_OR_LESS
    ),
    "another price": (lambda t: t.rsplit(",", 1)[0] + ",99\n", ANOTHER),
    "another space": (
        lambda t: t.replace("# space: tiny ", "# space: digits "), ANOTHER
    ),
    "another width": (
        lambda t: "# runs_at_bits: 8\n" + t, ANOTHER
    ),
    "an overhead": (lambda t: "# overhead_latency_ms: -0.1\n" + t, ANOTHER),
    "blocks": (
        lambda t: t.replace("# granularity: layer", "# granularity: block"), "lacks column mid_ch"
    ),
    "another count": (lambda t: t.replace("# rows: ", "# rows: 1"), "says that it has 1"),
    "another hash": (lambda t: t.replace("# content: ", "# content: 0"), ANOTHER + "0"),
    "a unit": (lambda t: "# unit: us\n" + t, "its header says unit: us.*apq lut import"),
    "units": (
        lambda t: "# latency_units: microseconds\n" + t, "its header says latency_units: micro"
    ),
    "two devices": (
        lambda t: "# device: phone\n" + t, "says device twice, 'phone' and 'bitfusion-apq'"
    ),
    "an overhead without prices": (
        lambda t: "# overhead_latency_ms: 1\n" + t.replace(",energy_mj", ",dw_weight_bits")
        .replace("latency_ms,", "energy_mj,"), "overhead_latency_ms, and it has no such column"
    ),
    "an overhead in words": (
        lambda t: "# overhead_energy_mj: 1e300\n" + t, "header says overhead_energy_mj '1e300'"
    ),
    "a margin": (
        lambda t: "# calibration_margin: 5%\n" + t, "header says calibration_margin '5%'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_header_out_of_step_with_its_rows_is_refused(tmp_path, tiny_space, change):
    path = written(tmp_path, tiny_space)
    edit, told = CHANGES[change]
    text = path.read_text()
    assert edit(text) != text
    path.write_text(edit(text))
    with pytest.raises(TableError, match=told):
        LookupTable.read(path)


def test_a_device_that_its_command_does_not_build_is_noticed(tmp_path, tiny_space):
    command = "apq lut build --model bitfusion-apq --space tiny.toml"
    made = build_table(tiny_space, load_cost_model("bitfusion-apq"), command)
    made.write(tmp_path / "t.csv")
    assert LookupTable.read(tmp_path / "t.csv").renamed() == ""
    other = replace(made, name="phone").renamed()
    assert "calls the device 'phone', and the command in it builds 'bitfusion-apq'" in other
    assert replace(made, name="phone", header={"command": "apq lut import x.csv"}).renamed() == ""
    default = {"command": "apq lut build --space cifar10"}
    assert replace(made, header=default).renamed() == ""
    assert replace(made, name="phone", header=default).renamed() == other


def test_what_is_no_change_of_the_rows_is_none(tmp_path, tiny_space):
    """Rows and columns in another order, another device name, units as they are, no hash."""
    path = written(tmp_path, tiny_space)
    text = path.read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    frame = pd.read_csv(path, comment="#").sample(frac=1, random_state=0)
    head[0] = "# device: another"
    shuffled = frame[sorted(frame.columns)].to_csv(index=False)
    path.write_text("\n".join([*head, "# units: latency ms, energy mJ", shuffled]))
    assert LookupTable.read(path).name == "another"
    frame.loc[0, "latency_ms"] = 9.0
    kept = [line for line in head if not line.startswith(("# rows", "# content"))]
    path.write_text("\n".join([*kept, frame.to_csv(index=False)]))
    assert 9.0 in LookupTable.read(path).prices["latency_ms"]


def test_block_rows_are_needed_where_the_header_says_blocks(tmp_path, tiny_space):
    frame = pd.read_csv(written(tmp_path, tiny_space), comment="#")
    frame = frame.assign(mid_channels=0, dw_weight_bits=0, dw_activation_bits=0)
    path = tmp_path / "b.csv"
    path.write_text("# granularity: block\n" + frame.to_csv(index=False))
    with pytest.raises(TableError, match="says granularity block and it has no mbconv row"):
        LookupTable.read(path)


def test_text_of_spreadsheets_is_named(tmp_path, tiny_space):
    path = written(tmp_path, tiny_space)
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(TableError, match=r"UTF-16 text.*--encoding utf-16"):
        LookupTable.read(path)
