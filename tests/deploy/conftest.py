import pytest
import torch

from apq.images import load_images
from apq.supernet import SupernetFile
from apq.supernet.training import Recipe, train


@pytest.fixture(scope="session")
def digits():
    return load_images("digits", 8, 1)


@pytest.fixture(scope="session")
def tiny_supernet(tiny_space, digits):
    """A supernet trained for a few seconds: weights that mean something, not good ones."""
    torch.set_num_threads(1)
    network, _ = train(tiny_space, digits, Recipe(epochs=2, batch=64))
    return SupernetFile(network.eval(), digits.mean, digits.std, "tiny", {})
