from pathlib import Path

import pytest

from apq.files import whole


def test_a_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with whole(path) as temporary:
        assert temporary.suffix == ".csv"
        assert temporary.name.startswith(".")
        temporary.write_text("a,b\n")
        assert not path.exists()
    assert path.read_text() == "a,b\n"
    assert list(path.parent.iterdir()) == [path]


def test_an_older_file_survives_a_failure(tmp_path):
    path: Path = tmp_path / "table.csv"
    path.write_text("old")

    def write_half():
        with whole(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
