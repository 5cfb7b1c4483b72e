"""Other people's tables: what is read, what is refused, and that nothing is left behind."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from mobilenet import ATTRIBUTES

from apq.cli import main
from apq.errors import ApqError, TableError
from apq.hardware import LookupTable, load_cost_model, price_space
from apq.hardware.importing import (
    check_import,
    import_apq_json,
    import_columns,
    import_haq_npy,
)
from apq.space import Candidate, Layer, load_space
from apq.space.layer import to_array

GOOD = """\
# device: watch
cout,cin,side,kernel,stride,weight_bits,activation_bits,latency_us
16,8,32,1,1,8,8,40
16,16,32,3,2,8,8,25.5
"""
COLUMNS = {"out_channels": "cout", "in_channels": "cin", "height": "side"}
CONSTANTS = {"op": "conv", "groups": 1}


def write(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_in_any_order_with_their_units(tmp_path):
    table = import_columns(write(tmp_path, GOOD), COLUMNS, constants=CONSTANTS)
    assert table.name == "watch"
    rows = to_array([Layer("conv", 16, 16, 32, 32, 3, 2), Layer("conv", 8, 16, 32, 32)])
    np.testing.assert_allclose(table.price(rows)["latency_ms"], [0.0255, 0.04])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("latency_us", "latency"), {}, "unit of latency is not stated"),
        (("latency_us", "latency_fortnights"), {}, "no known unit"),
        (("40", "40"), {"units": {"latency": "furlong"}}, "unknown unit 'furlong'"),
        (("40", "40"), {"units": {"latency": "ms"}}, "contradicts the declared unit"),
        (("40", "40"), {"units": {"energy": "nJ"}}, "no energy column"),
        (("latency_us", "latency_cycles"), {}, "--frequency-mhz"),
        (("25.5", "-25.5"), {}, "row 2: latency_ms is '-25.5'"),
        (("25.5", "nan"), {}, "row 2: latency_ms is 'nan'"),
        (("25.5", ""), {}, "row 2: latency_ms is ''"),
        (("16,16,32,3,2", "16,8,32,1,1"), {}, r"conv1x1/s1 8->16 @32px w8a8 twice"),
        (("16,16", "16,x"), {}, "row 2: in_channels is 'x'"),
        (("16,16", "16,0"), {}, "in_channels is '0'; it must be a whole number from 1"),
        (("25.5", "25.5,9"), {}, "row 2 has 9 cells where the header has 8"),
        (("cout,cin", "cout,cout"), {}, "column cout twice"),
        (("weight_bits", "remark"), {}, "unknown column 'remark'"),
        (("16,8,32,1,1,8,8,40\n16,16,32,3,2,8,8,25.5\n", ""), {}, "no rows"),
        (("\n16,8", "\n"), {}, "row 1 has 7 cells"),
        (("latency_us", "cycles"), {}, "--frequency-mhz"),
        (("kernel,stride", "stride,batch"), {}, "unknown column 'batch'"),
        (("40", "40"), {"constants": {}}, r"lacks op, groups; .*--column op=THEIRS.*--set op=conv"),
        (("40", "40"), {"constants": {"stride": 1}}, "--set is for columns it lacks"),
        (("40", "40"), {"columns": {"channels": "cin"}}, "Did you mean"),
        ((GOOD, "cout;cin;latency_us\n16;8;40\n"), {}, "separates its columns by ';'"),
    ],
)
def test_a_table_that_is_not_clear_is_refused(tmp_path, change, options, message):
    assert change[0] in GOOD
    path = write(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(ApqError, match=message):
        import_columns(path, **({"columns": COLUMNS, "constants": CONSTANTS} | options))


def test_a_byte_order_mark_is_named_and_can_be_allowed(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(GOOD, encoding="utf-8-sig")
    with pytest.raises(TableError, match=r"byte-order mark.*--encoding utf-8-sig"):
        import_columns(path, COLUMNS, constants=CONSTANTS)
    table = import_columns(path, COLUMNS, constants=CONSTANTS, encoding="utf-8-sig")
    assert len(table.layers) == 2


def test_an_impossible_speed_suggests_the_wrong_unit(tmp_path):
    path = write(tmp_path, GOOD.replace("latency_us", "latency_s"))
    with pytest.raises(TableError, match="is the declared unit of latency right"):
        check_import(import_columns(path, COLUMNS, constants=CONSTANTS))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["apq", "lut", "import", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


@pytest.mark.parametrize(
    "text",
    [
        GOOD,  # lacks most rows of the space
        GOOD.replace("25.5", "-1"),
        GOOD.replace("25.5", "NaN"),
        GOOD.replace("16,16,32,3,2", "16,8,32,1,1"),
        GOOD.replace("latency_us", "latency"),
        "\ufeff" + GOOD,
        GOOD[: GOOD.index("16,8")],
    ],
    ids=["missing rows", "negative", "nan", "duplicate", "no unit", "bom", "0 rows"],
)
def test_the_command_refuses_and_writes_nothing(tmp_path, monkeypatch, capsys, text):
    path, to = write(tmp_path, text), tmp_path / "out" / "watch.csv"
    options = [f"--column={o}={t}" for o, t in COLUMNS.items()]
    code = run(
        monkeypatch, path, *options, "--set", "op=conv", "--set", "groups=1",
        "--space", "digits", "--out", to,
    )  # fmt: skip
    assert code == 1
    assert "error:" in capsys.readouterr().err
    assert not to.parent.exists()


def test_the_command_imports_a_good_table(tmp_path, monkeypatch, capsys):
    path, to = write(tmp_path, GOOD), tmp_path / "watch.csv"
    options = [f"--column={o}={t}" for o, t in COLUMNS.items()]
    code = run(monkeypatch, path, *options, "--set", "op=conv", "--set", "groups=1", "--out", to)
    assert code == 0
    assert LookupTable.read(to).describe()["device"] == "watch"


@pytest.fixture(scope="module")
def published(shared):
    return import_apq_json(shared / "reference/apq/bitfusion_b1_lut.json")


def candidate(row):
    theirs = ("ks", "mid_channels", *ATTRIBUTES[2:])
    depths = [*row["d"][:5], 1]
    slots = [4 * s + i for s, depth in enumerate(depths) for i in range(depth)]
    return Candidate.of(
        {f"depth_{s}": int(depth) for s, depth in enumerate(depths)}
        | {
            f"b{i:02d}_{name}": int(row[column][i])
            for i in slots
            for name, column in zip(ATTRIBUTES, theirs, strict=True)
        }
    )


@pytest.mark.parametrize("model", ["published", "simulated"])
def test_whole_networks_cost_what_apqs_code_says(shared, published, model):
    space = load_space("apq-imagenet")
    folder = shared / "reference/apq"
    rows = pd.concat(
        [pd.read_parquet(folder / f"apq_specs_{name}.parquet") for name in ("1000", "corners")]
    )
    table, tolerance = published, 1e-12
    if model == "simulated":
        prices = load_cost_model("bitfusion-apq").price(published.layers)
        table = LookupTable(
            "bitfusion-apq", "", published.layers, prices, leaves_out=published.leaves_out
        )
        tolerance = 1e-3
    genes = space.genes([candidate(row) for _, row in rows.iterrows()])
    costs = price_space(space, table).costs(genes)
    assert len(rows) == 1036
    np.testing.assert_allclose(costs["latency_ms"], rows.latency_ms, rtol=tolerance)
    np.testing.assert_allclose(costs["energy_mj"], rows.energy_mj, rtol=tolerance)


def test_haqs_array(shared, tmp_path):
    path = shared / "reference/hardware/haq_mobilenetv2_imagenet100_b16_latency_cycles.npy"
    cycles = np.load(path)
    table = import_haq_npy(path, frequency_mhz=100, batch=16)
    stem = Layer("conv", 3, 32, 224, 224, 3, 2, 1, 8, 6)
    price = table.price(to_array([stem]))["latency_ms"][0]
    assert price == pytest.approx(cycles[0, 7, 5] / 1e5 / 16)
    with pytest.raises(TableError, match="--frequency-mhz must be positive"):
        import_haq_npy(path, frequency_mhz=0)
    np.save(tmp_path / "x.npy", cycles[:5])
    with pytest.raises(TableError, match=r"shape \(5, 8, 8\)"):
        import_haq_npy(tmp_path / "x.npy", 100)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"a": 1}', json.dumps({"head": {"energy": 1}})])
def test_json_that_is_not_apqs_table(tmp_path, text):
    path = tmp_path / "lut.json"
    path.write_text(text)
    with pytest.raises(ApqError):
        import_apq_json(path)
