"""Reading, writing and asking lookup tables."""

from dataclasses import replace

import numpy as np
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
    latency=st.lists(st.floats(0, 1e9), min_size=6, max_size=6),
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
