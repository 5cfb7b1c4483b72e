"""What a tuned FLightNN costs: its filters keep fewer powers of two than their bits allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apq.deploy.model import Model
from apq.errors import ApqError, TableError
from apq.hardware.base import CostModel
from apq.quantize.flightnn import FlightWeights
from apq.quantize.network import QuantizedSubnet
from apq.space.formats import code_of
from apq.space.layer import to_array, to_layer


def terms_by_layer(model: Model) -> dict[str, list[int]]:
    """Numbers of filters with 0, 1 and 2 powers of two, of every layer that has such filters."""
    if not isinstance(model.network, QuantizedSubnet):
        return {}
    return {
        layer.name: part.weights.terms_used(part.weight).bincount(minlength=3).tolist()
        for layer, part in model.network.layers()
        if isinstance(part.weights, FlightWeights)
    }


def price_tuned(model: Model, device: CostModel) -> dict[str, float]:
    """Costs of a tuned network on a device, by metric.

    A layer of FLightNN costs the mean over its filters: those with one power of two cost as in
    ``flightnn-4``, those with two as in ``flightnn-8``, those without any nothing. All other layers
    cost what the search's tables say.

    Args:
        model: Of a fine-tuning.
        device: Prices single layers.

    Raises:
        ApqError: the device prices whole blocks.
        TableError: it has no price for a layer.
    """
    if device.granularity == "block":
        raise ApqError(f"{device.name} prices whole blocks, whose filters cannot be told apart")
    graph, counts = model.space.graph_of(model.candidate), terms_by_layer(model)
    sides, total = graph.sides(), dict(device.overhead)
    for node in graph.priced:
        if node.name in device.leaves_out:
            continue
        layer, shares = to_layer(graph.row(node, sides[node.inputs[0]])), {}
        if node.name in counts:
            filters = sum(counts[node.name])
            for k, name in ((1, "flightnn-4"), (2, "flightnn-8")):
                shares[replace(layer, weight_bits=code_of(name))] = counts[node.name][k] / filters
        for one, share in (shares or {layer: 1.0}).items():
            row = to_array([one])
            for metric, values in device.price(row).items():
                if share and np.isnan(values[0]):
                    raise TableError(device.explain(row))
                total[metric] = total.get(metric, 0.0) + (share and share * float(values[0]))
    return total
