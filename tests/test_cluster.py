"""Samples that a Dask cluster measures."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from apq.cluster import connected
from apq.collect import collect
from apq.errors import ApqError
from apq.images import load_images
from apq.samples import part_files, read_samples
from apq.space import load_space
from apq.supernet import load_supernet
from apq.supernet.training import Recipe, train_supernet


def test_without_an_address_there_is_no_client():
    with connected(None) as client:
        assert client is None


@pytest.mark.filterwarnings("ignore")  # Dask's own, when a worker is killed
def test_a_worker_killed_midway_costs_no_sample_and_makes_none_twice(tmp_path):
    distributed = pytest.importorskip(
        "distributed", reason="needs a Dask cluster: pip install 'apq-nas[dask]'"
    )
    space, digits = load_space("digits"), load_images("digits", 8, 1, 10)
    path = tmp_path / "net.safetensors"
    train_supernet(space, digits, path, Recipe(epochs=1, batch=64))
    supernet = load_supernet(path)
    killed = []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        pids = [worker.pid for worker in cluster.workers.values()]

        def kill(done, total, figures):
            if done >= 6 and not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        address = cluster.scheduler_address
        given = {"chunk": 2, "on_progress": kill, "dask": address}
        assert collect(supernet, digits, tmp_path / "dask", 40, **given) == 0
        assert killed
        assert collect(supernet, digits, tmp_path / "dask", 40, **given) == 40
    assert len(part_files(tmp_path / "dask")) == 20
    collect(supernet, digits, tmp_path / "alone", 40)
    found, alone = (read_samples(tmp_path / name) for name in ("dask", "alone"))
    assert np.array_equal(found.genes, alone.genes)
    assert np.array_equal(found.accuracy, alone.accuracy)
    with pytest.raises(ApqError, match="no Dask scheduler answers at 'tcp"):
        collect(supernet, digits, tmp_path / "none", 2, dask="tcp://127.0.0.1")
