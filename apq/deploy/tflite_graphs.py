"""TFLite models of blocks and networks with random weights: for timing and for Arm's compiler.

The same steps as :mod:`apq.deploy.graphs` times in onnxruntime, through the other writer.
"""

from __future__ import annotations

import numpy as np

from apq.deploy.graphs import graph_steps, layer_steps
from apq.runtime.flatbuffer import FlatBuffer
from apq.runtime.tflite_graph import tflite_model
from apq.space import Candidate, Layer, Space
from apq.space.layer import both


def layer_tflite(layer: Layer, seed: int = 0) -> bytes:
    """One layer or whole block with real shapes, 8 bits, batch 1."""
    shape = (1, layer.in_channels, layer.height, layer.width)
    return tflite_model(layer_steps(layer, "int8", seed), shape, {}, part=True).data


def network_tflite(space: Space, candidate: Candidate, seed: int = 0) -> bytes:
    """A whole network as it would be deployed, with random weights of 8 bits."""
    graph = space.graph_of(candidate)
    shape = (1, space.in_channels, *both(graph.size))
    return tflite_model(graph_steps(graph, "int8", seed), shape, {}).data


def empty_tflite() -> bytes:
    """A model that does next to nothing: what calling the runtime costs."""
    file = FlatBuffer()
    image = file.tensor("image", (1, 8), "int8", (1.0, 0))
    same = file.tensor("same", (8, 1), "int8", (1.0, 0))
    shape = file.constant("shape", np.array([8, 1], dtype=np.int32))
    file.operator("RESHAPE", [image, shape], same, "ReshapeOptions", newShape=[8, 1])
    return file.finish(image, same, {})
