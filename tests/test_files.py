import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

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


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
def test_a_file_is_readable_as_the_umask_says(tmp_path):
    path = tmp_path / "weights.safetensors"
    before = os.umask(0o027)
    try:
        with whole(path) as temporary:
            save_file({"a": np.zeros(3)}, temporary)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
