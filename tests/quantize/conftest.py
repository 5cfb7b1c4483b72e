import json

import numpy as np
import pytest


def golden(shared, name):
    """Cases and arrays of one file of the quantization sheet."""
    folder = shared / "reference/quantization"
    return json.loads((folder / f"{name}.json").read_text()), np.load(folder / f"{name}.npz")


@pytest.fixture(scope="session")
def haq(shared):
    return golden(shared, "haq_linear")


@pytest.fixture(scope="session")
def definitions(shared):
    return golden(shared, "definitions")


@pytest.fixture(scope="session")
def qkeras(shared):
    return golden(shared, "qkeras_quantizers")
