"""Samples with a formula's accuracies, so that predictors can be judged against the truth."""

import numpy as np
import pytest
from conftest_formula import true_accuracy

from apq.samples import read_samples, write_part
from apq.space import load_space


def write_formula(path, space, count, precision, seed, supernet="abc", noise=0.002):
    rng = np.random.default_rng(seed)
    genes = np.unique(space.sample(3 * count, rng), axis=0)
    if precision == "fp32":
        fp32 = space.from_values(
            {k: v for k, v in space.values(genes).items() if not k.endswith("bits")}
        )
        genes = np.unique(fp32, axis=0)
    genes = rng.permutation(genes)[:count]
    accuracy = true_accuracy(space, genes, precision) + noise * rng.normal(size=len(genes))
    n = len(genes)
    measured = {
        "accuracy": accuracy, "loss": 1 - accuracy, "scheme": [None] * n, "seed": [seed] * n,
        "finetune_steps": [0] * n, "images": [1000] * n, "seconds": [0.1] * n,
    }  # fmt: skip
    write_part(path / "part-0.parquet", space, genes, measured, precision, {"supernet": supernet})
    return read_samples(path)


@pytest.fixture(scope="session")
def digits_space():
    return load_space("digits")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="session")
def fp32(folder, digits_space):
    return write_formula(folder / "fp32", digits_space, 150, "fp32", 0)


@pytest.fixture(scope="session")
def quantized(folder, digits_space):
    return write_formula(folder / "quantized", digits_space, 60, "quantized", 1)


@pytest.fixture(scope="session")
def unseen(digits_space):
    return digits_space.sample(400, np.random.default_rng(99))
