"""Collection: the plan, resumption after SIGKILL, two at once."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mobilenet import block_genes
from small_families import SMALL

from apq.accuracy import Quantization
from apq.collect import collect
from apq.errors import SamplesError, SpaceError
from apq.images import load_images
from apq.plan import ask, covered, plan, planned
from apq.predictor import train_predictor
from apq.quantize import quantize_subnet
from apq.samples import part_files, read_samples
from apq.space import load_space
from apq.supernet import Supernet, SupernetFile, load_supernet, save_supernet
from apq.supernet.evaluate import EvalImages, estimate, measure, recalibrate


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", 8, 1, 10)


@pytest.fixture(scope="module")
def supernet_path(tmp_path_factory, digits) -> Path:
    """Untrained weights: what is tested here does not depend on how good they are."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    network = Supernet(load_space("digits")).eval()
    save_supernet(path, network, {"mean": digits.mean, "std": digits.std})
    return path


def test_fp32_plan_is_distinct_architectures_and_grows_by_appending():
    space = load_space("cifar10")
    genes = plan(space, 300, seed=0, quantized=False)
    assert len(np.unique(genes, axis=0)) == 300
    assert np.array_equal(plan(space, 120, 0, False), genes[:120])
    assert not np.array_equal(plan(space, 120, 1, False), genes[:120])
    bits = [axis.is_format for axis in space.axes]
    active = space.active(genes)
    used = block_genes(space, genes)[active][:, 2:]
    assert (used == 2).all()
    assert any(bits)


def test_quantized_plan_is_the_papers_mix():
    space = load_space("apq-imagenet")
    genes = plan(space, 200, seed=3, quantized=True)
    assert space.is_valid(genes).all()
    assert len(np.unique(genes, axis=0)) == 200
    blocks = block_genes(space, genes)[:, :, :2].reshape(200, -1)
    sizes = np.unique(blocks, axis=0, return_counts=True)[1]
    # ten groups share one architecture each, the other hundred candidates have their own
    assert (sizes == 1).sum() >= 100
    assert sizes.max() > 5


@pytest.mark.parametrize("name", ["digits", "apq-imagenet"])
def test_policies_have_all_means_and_some_a_single_format(name):
    space = load_space(name)
    genes = plan(space, 400, seed=3, quantized=True)
    assert (space.snap(genes) == genes).all()
    values = space.values(genes)
    bits = np.stack([values[a.name].astype(float) for a in space.axes if a.is_format], axis=1)
    means, drawn = np.nanmean(bits, axis=1), np.nanmean(bits[~np.isnan(bits).any(axis=1)])
    even = space.sample(400, np.random.default_rng(0))
    theirs = space.values(even)
    alike = np.nanmean([theirs[a.name].astype(float) for a in space.axes if a.is_format], axis=0)
    assert means.std() > (1.8 if name == "digits" else 2.5) * alike.std()
    assert drawn == pytest.approx(alike.mean(), abs=0.5)
    single = np.nanmax(bits, axis=1) == np.nanmin(bits, axis=1)
    assert single.mean() > (0.05 if name == "digits" else 0.02)  # exclusions forbid 4 bits there
    assert len(np.unique(means[single])) > 1


def test_supernet_and_fp32_samples_serve_another_menu_of_formats(supernet_path, digits, tmp_path):
    own = load_supernet(supernet_path)
    space = load_space("digits")
    bits = replace(space.family.bits, pw_w=(2, 3, 8), dw_a=(2, "uniform-lsq-3", 8))
    other = space.with_(bits=bits)
    assert other.architecture == space.architecture
    assert other.fingerprint != space.fingerprint
    loaded = load_supernet(supernet_path, other)
    assert loaded.hash == own.hash
    assert loaded.network.space == other
    collect(own, digits, tmp_path / "fp32", 24, validation_images=60, calibration_images=60)
    samples = read_samples(tmp_path / "fp32", other)
    assert samples.space == other
    values = other.values(samples.genes)
    assert set(values["b00_pw_w_bits"]) == {8}
    mine = read_samples(tmp_path / "fp32")
    for name in ("depth_0", "b00_kernel", "b00_width"):
        assert np.array_equal(values[name], space.values(mine.genes)[name])
    dear = tmp_path / "quantized"
    how = Quantization(finetune_steps=0)
    options = {"validation_images": 40, "calibration_images": 40, "quantization": how}
    collect(loaded, digits, dear, 20, **options)
    predictor = train_predictor(mine, read_samples(dear), compare=False)
    assert predictor.space == other
    with pytest.raises(SamplesError, match="made differently"):
        collect(own, digits, dear, 30, **options)
    wider = space.with_(head_channels=space.family.head_channels + 8)
    with pytest.raises(SpaceError, match="head_channels"):
        load_supernet(supernet_path, wider)
    with pytest.raises(SpaceError, match="different spaces"):
        read_samples(dear, space)


def test_a_small_space_is_exhausted_exactly(tiny_space):
    total = tiny_space.count()
    genes = plan(tiny_space, total, 0, quantized=True)
    assert len(np.unique(genes, axis=0)) == total
    with pytest.raises(SamplesError, match=f"only {total:,} different candidates"):
        plan(tiny_space, total + 1, 0, quantized=True)
    with pytest.raises(SamplesError, match="different architectures"):
        plan(tiny_space, total, 0, quantized=False)


def test_what_is_asked_for_takes_its_place_and_nothing_repeats(tmp_path, supernet_path, digits):
    supernet = load_supernet(supernet_path)
    space, how = supernet.network.space, Quantization(finetune_steps=0)
    options = {"validation_images": 20, "calibration_images": 30}
    collect(supernet, digits, tmp_path, 3, how, **options)
    own = plan(space, 8, 0, quantized=True)
    # the second of what is asked for is what the plan would take next
    wanted = np.stack([space.sample(1, np.random.default_rng(9))[0], own[3]])
    seen = []

    def choose(known):
        seen.append(known)
        return wanted

    assert ask(tmp_path, space, 0, choose, {"by": "test"}) == (3, 5)
    assert np.array_equal(seen[0], own[:3])
    # not measured yet, so the same is asked for again
    assert ask(tmp_path, space, 0, choose, {"by": "test"}) == (3, 5)
    assert len(seen) == 1
    genes = planned(tmp_path, space, 7, 0, quantized=True)
    assert np.array_equal(genes, np.concatenate([own[:3], wanted, own[4:6]]))
    assert collect(supernet, digits, tmp_path, 7, how, **options) == 3
    assert np.array_equal(read_samples(tmp_path).genes, genes)
    assert ask(tmp_path, space, 0, lambda known: own[6:8], {})[0] == 7
    assert len(pd.read_parquet(tmp_path)) == 7


def test_collecting_more_appends_and_repeats_nothing(tmp_path, supernet_path, digits):
    supernet = load_supernet(supernet_path)
    options = {"validation_images": 50, "calibration_images": 50}
    assert collect(supernet, digits, tmp_path, 30, **options) == 0
    first = read_samples(tmp_path).frame.drop(columns="seconds")
    assert collect(supernet, digits, tmp_path, 60, **options) == 30
    assert collect(supernet, digits, tmp_path, 60, **options) == 60
    both = read_samples(tmp_path)
    assert len(both) == 60
    pd.testing.assert_frame_equal(both.frame.drop(columns="seconds").iloc[:30], first)
    assert np.array_equal(both.genes, plan(supernet.network.space, 60, 0, False))
    with pytest.raises(SamplesError, match=r"(?s)made differently.*seed\s+1\s+0"):
        collect(supernet, digits, tmp_path, 60, seed=1, **options)


def test_drawn_images_depend_on_the_samples_place_not_on_chunks(
    tmp_path, supernet_path, digits, monkeypatch
):
    monkeypatch.setattr("apq.accuracy.SAME_IMAGES", 5)
    supernet = load_supernet(supernet_path)
    options = {"validation_images": 60, "calibration_images": 40}
    for name, chunk in (("three", 3), ("twelve", 12)):
        collect(supernet, digits, tmp_path / name, 12, chunk=chunk, **options)
    collect(supernet, digits, tmp_path / "all", 12, calibration_images=40)
    three, twelve, every = (read_samples(tmp_path / n).frame for n in ("three", "twelve", "all"))
    assert three["accuracy"].to_numpy() == pytest.approx(twelve["accuracy"].to_numpy(), abs=1e-9)
    assert set(three["images"]) == {60}
    assert set(every["images"]) == {len(digits.splits["validation"][1])}
    # candidates differ by more than what the other images would tell
    error = (three["accuracy"] - every["accuracy"]).std()
    assert 0 < error < 0.06
    with pytest.raises(SamplesError, match=r"(?s)made differently.*drawn\s+False\s+True"):
        collect(supernet, digits, tmp_path / "three", 15, calibration_images=40)


def test_quantized_samples_are_reproducible_and_move_with_bits(tmp_path, supernet_path, digits):
    supernet = load_supernet(supernet_path)
    how = Quantization(finetune_steps=2, batch=16)
    options = {"validation_images": 100, "calibration_images": 50}
    for name in ("a", "b"):
        collect(supernet, digits, tmp_path / name, 5, how, **options)
    a, b = (read_samples(tmp_path / n).frame.drop(columns="seconds") for n in "ab")
    pd.testing.assert_frame_equal(a, b)
    assert set(a["precision"]) == {"quantized"}
    assert a["loss"].nunique() > 1


def fill(folder: Path, supernet_path: Path, count: int, chunk: int = 10) -> None:
    """What a collecting process does; the image set is small so that a sample takes no time."""
    torch.set_num_threads(1)
    images = load_images("digits", 8, 1, 10)
    options = {"validation_images": 40, "calibration_images": 40, "chunk": chunk}
    collect(load_supernet(supernet_path), images, folder, count, **options)


def fill_together(processes, folder: Path, supernet_path: Path, count: int, chunks) -> None:
    """One process per chunk size, all at once on one folder."""
    workers = [
        processes.Process(target=fill, args=(folder, supernet_path, count, chunk))
        for chunk in chunks
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0


def test_killed_four_times_and_shared_by_two_it_ends_with_exactly_the_count(
    tmp_path, supernet_path
):
    """SIGKILL at random moments; then two processes finish the folder together."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["apq.collect", "sklearn.datasets"])
    rng = random.Random(0)
    count = 90
    reached = [0]
    for _ in range(4):
        process = processes.Process(target=fill, args=(tmp_path, supernet_path, count, 5))
        process.start()
        while process.is_alive() and int(covered(tmp_path, count).sum()) == reached[-1]:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        reached.append(int(covered(tmp_path, count).sum()))
        for part in part_files(tmp_path):  # not what a kill left half written, under another name
            assert len(pd.read_parquet(part)) == 5
    assert reached == sorted(set(reached))
    fill_together(processes, tmp_path, supernet_path, count, chunks=(5, 5))
    samples = read_samples(tmp_path)
    assert len(samples) == len(pd.read_parquet(tmp_path)) == count
    genes = samples.genes[np.lexsort(samples.genes.T)]
    expected = plan(samples.space, count, 0, quantized=False)
    assert np.array_equal(genes, expected[np.lexsort(expected.T)])


def test_two_processes_with_different_chunks_measure_everything_once(tmp_path, supernet_path):
    processes = multiprocessing.get_context("forkserver")
    fill_together(processes, tmp_path, supernet_path, 40, chunks=(10, 3, 4))
    samples = read_samples(tmp_path)
    assert len(samples) == 40
    assert len(np.unique(samples.genes, axis=0)) == 40


def test_a_part_that_is_removed_is_collected_again_and_nothing_else(tmp_path, supernet_path):
    fill(tmp_path, supernet_path, 24, 4)
    before = read_samples(tmp_path).frame
    parts = part_files(tmp_path)
    kept = {p: p.stat().st_mtime_ns for p in parts if p is not parts[2]}
    parts[2].unlink()
    fill(tmp_path, supernet_path, 24, 16)  # one chunk around the gap
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items())
    after = read_samples(tmp_path).frame
    assert after.drop(columns="seconds").equals(before.drop(columns="seconds"))


@pytest.mark.parametrize("quantized", [False, True])
def test_candidates_are_measured_at_their_own_resolution(tmp_path, digits, quantized):
    """Against whole networks, which resize images themselves."""
    torch.manual_seed(1)
    space = SMALL["resolutions"]
    network = Supernet(space).eval()
    supernet = SupernetFile(network, digits.mean, digits.std, "0", {})
    how = Quantization(finetune_steps=0) if quantized else None
    collect(supernet, digits, tmp_path, 12, how, calibration_images=50)
    samples = read_samples(tmp_path)
    assert len(set(samples.frame["resolution"])) > 1
    data = EvalImages.of(digits, digits.mean, digits.std, calibration=50)
    for row, loss in zip(samples.genes, samples.frame["loss"], strict=True):
        subnet = network.subnet(space.build(row))
        if quantized:
            recalibrate(subnet, data.calibration)
            model = quantize_subnet(subnet, subnet.graph, data.calibration)
            recalibrate(model, data.calibration)
            expected = estimate(model.eval(), data)[1]
        else:
            expected = measure(subnet, data)[1]
        assert loss == pytest.approx(expected, rel=1e-4)
