"""Rewrite an imported network into operators that the tracer supports: constants are folded, biases
merged into their layers, and activations written in basic operators recognised.

Every rule preserves the network's function up to floating-point rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apq.errors import ModelError
from apq.supernet.imported.graph import Array, OnnxGraph, Operation
from apq.supernet.imported.known import RULES, compute
from apq.supernet.imported.operators import OPERATORS, is_usual

LAYERS = ("Conv", "Linear")
MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operations that return their input unchanged."""
SAME = ("Identity", "Dropout")
MATCHES = 1e-5
"""Tolerance when matching the constants of a named activation."""


def simplify(graph: OnnxGraph) -> OnnxGraph:
    """The rewritten graph; the one given is changed.

    Raises:
        ModelError: an operator is not read; names it, the node and those that are.
    """
    _fold(graph)
    _require_known(graph)
    _name_layers(graph)
    _drop_softmax(graph)
    with np.errstate(all="ignore"):  # files may hold NaN or infinity
        for rule in (_bias, _hard_swish, _scaled, _hard_sigmoid):
            while rule(graph):
                pass
    return graph


def _fold(graph: OnnxGraph) -> None:
    """Fold operations on constants, and remove identities."""
    same: dict[str, str] = {}
    kept: list[Operation] = []
    for op in graph.operations:
        op = replace(op, inputs=tuple(same.get(name, name) for name in op.inputs))
        known = all(name in graph.constants or not name for name in op.inputs)
        if op.op in SAME and op.inputs:
            same[op.outputs[0]] = op.inputs[0]
        elif known and op.op in RULES and len(op.outputs) == 1:
            given = [graph.constants.get(name) for name in op.inputs]
            graph.constants[op.outputs[0]] = compute(op, given)
        else:
            kept.append(op)
    graph.operations = kept
    graph.result = same.get(graph.result, graph.result)


def _require_known(graph: OnnxGraph) -> None:
    for op in graph.operations:
        if op.op in OPERATORS or op.op in RULES:
            continue
        hint = ""
        if "Quantize" in op.op or op.op.startswith(("QLinear", "ConvInteger", "MatMulInteger")):
            hint = " The file is quantized: give the one with real weights that it was made of."
        raise ModelError(
            f"node {op.name[:80]!r} is a {op.op[:80]}, which is not read.{hint} Operators that are "
            f"read: {', '.join(sorted({*OPERATORS, *RULES} - {'Linear'}))}"
        )


def _replace(graph: OnnxGraph, old: Operation, *new: Operation) -> None:
    at = next(i for i, op in enumerate(graph.operations) if op is old)
    graph.operations[at : at + 1] = new


def _constant(graph: OnnxGraph, base: str, value: Array) -> str:
    """A constant of a new name."""
    name = f"{base}*"
    while name in graph.constants:
        name += "*"
    graph.constants[name] = value
    return name


def _name_layers(graph: OnnxGraph) -> None:
    """Products with constant matrices are linear layers."""
    for op in [*graph.operations]:
        weight = graph.constants.get(op.inputs[1]) if len(op.inputs) > 1 else None
        if op.op not in ("MatMul", "Gemm") or weight is None or weight.ndim != 2:
            continue
        if op.get("transA", 0):
            raise ModelError(f"node {op.name!r}: Gemm with transA is not read")
        turned = weight if op.get("transB", 0) else weight.T
        scaled = np.ascontiguousarray(turned * np.float32(op.get("alpha", 1.0)))
        inputs = [op.inputs[0], _constant(graph, op.inputs[1], scaled)]
        added = op.inputs[2] if len(op.inputs) > 2 else ""
        if added:
            bias = np.broadcast_to(graph.constants[added].reshape(-1), (len(scaled),))
            inputs.append(_constant(graph, added, bias * np.float32(op.get("beta", 1.0))))
        named = Operation(op.name, "Linear", tuple(inputs), op.outputs)
        _replace(graph, op, named)


def _drop_softmax(graph: OnnxGraph) -> None:
    """Remove a last softmax, so that the output is logits."""
    last = graph.makers().get(graph.result)
    if last is not None and last.op in ("Softmax", "LogSoftmax"):
        graph.operations = [op for op in graph.operations if op is not last]
        graph.result = last.inputs[0]
        graph.notes.append(("the network", f"its last {last.op} is left out: it gives logits"))


def _alone(graph: OnnxGraph, name: str, readers: dict[str, list[Operation]]) -> bool:
    """Whether one operation alone reads a value."""
    return len(readers.get(name, ())) == 1 and name != graph.result


def _apart(
    graph: OnnxGraph, op: Operation, makers: dict[str, Operation]
) -> tuple[str, Array] | None:
    """The activation and the constant that an operation of two inputs reads."""
    if len(op.inputs) != 2:
        return None
    for x, c in (op.inputs, op.inputs[::-1]):
        if c in graph.constants and x in makers:
            return x, graph.constants[c]
    return None


def _scalar(value: Array) -> float | None:
    return float(value.reshape(-1)[0]) if value.size == 1 and value.ndim <= 4 else None


def _bias(graph: OnnxGraph) -> bool:
    """A constant per channel behind a layer is its bias."""
    makers, readers = graph.makers(), graph.users()
    for op in graph.operations:
        apart = _apart(graph, op, makers) if op.op in ("Add", "Sub") else None
        if apart is None or (op.op == "Sub" and op.inputs[0] != apart[0]):
            continue
        layer = makers[apart[0]]
        bias = _per_channel(graph, layer, apart[1])
        if bias is None or not _alone(graph, layer.outputs[0], readers):
            continue
        if not _multiply(graph, layer, 1.0, -bias if op.op == "Sub" else bias, op.outputs):
            continue
        graph.operations = [one for one in graph.operations if one is not op]
        return True
    return False


def _per_channel(graph: OnnxGraph, layer: Operation, value: Array) -> Array | None:
    """A number for every channel of a layer, from a constant added to what it gives; or None."""
    weight = graph.constants.get(layer.inputs[1]) if layer.op in LAYERS else None
    if weight is None:
        return None
    rank = weight.ndim - 1 if layer.op == "Conv" else 1  # of the channels and what comes behind
    shape = (1,) * (rank - value.ndim) + value.shape
    while len(shape) > rank and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != rank or any(n != 1 for n in shape[1:]) or shape[0] not in (1, len(weight)):
        return None
    return np.broadcast_to(value.reshape(-1), (len(weight),)).astype(np.float32)


def _is(graph: OnnxGraph, op: Operation | None, kind: str, *wanted: float) -> bool:
    """Whether an operation is of a kind, with certain numbers behind its first input or as
    attributes."""
    if op is None or op.op != kind:
        return False
    said = [graph.constants[n] for n in op.inputs if n in graph.constants]
    found = [_scalar(value) for value in said]
    if kind == "Clip" and not found:
        found = [op.get("min"), op.get("max")]
    return len(found) == len(wanted) and all(
        a is not None and abs(a - b) <= MATCHES * max(1.0, abs(b))
        for a, b in zip(found, wanted, strict=True)
    )


def _hard_swish(graph: OnnxGraph) -> bool:
    """``x * clip(x + 3, 0, 6) / 6``, in any order, is one operation."""
    readers = graph.users()
    for op in graph.operations:
        if op.op != "Mul" or len(op.inputs) != 2:
            continue
        for x, factor in (op.inputs, op.inputs[::-1]):
            used, last = _gate(graph, factor, x, readers), op
            if used and used[0].op == "Clip":  # the 6 must come behind the product
                alone = _alone(graph, op.outputs[0], readers)
                last = readers[op.outputs[0]][0] if alone else op
                used = [*used, op] if _is_sixth(graph, last) else []
            if used:
                _replace(graph, last, Operation(op.name, "HardSwish", (x,), last.outputs))
                gone = {id(one) for one in used}
                graph.operations = [one for one in graph.operations if id(one) not in gone]
                return True
    return False


def _gate(
    graph: OnnxGraph, name: str, x: str, readers: dict[str, list[Operation]]
) -> list[Operation]:
    """What makes a value that is ``clip(x + 3, 0, 6)``, perhaps divided by 6; none if it is not.
    The last step comes first."""
    makers = graph.makers()

    def source(value: str) -> Operation | None:
        return makers.get(value) if _alone(graph, value, readers) else None

    made = source(name)
    if made is not None and made.op == "HardSigmoid" and made.inputs[0] == x:
        return [made] if is_usual(made.get("alpha", 0.2), made.get("beta", 0.5)) else []
    used = [made] if made is not None and _is_sixth(graph, made) else []
    made = source(_read(graph, made)) if made is not None and used else made
    added = source(made.inputs[0]) if made is not None and made.inputs else None
    found = _is(graph, made, "Clip", 0.0, 6.0) and _is(graph, added, "Add", 3.0)
    if not found or made is None or added is None or _read(graph, added) != x:
        return []
    return [*used, made, added]


def _is_sixth(graph: OnnxGraph, op: Operation) -> bool:
    """Whether an operation divides by 6."""
    divides = _is(graph, op, "Div", 6.0) and op.inputs[1] in graph.constants
    return divides or _is(graph, op, "Mul", 1 / 6)


def _read(graph: OnnxGraph, op: Operation) -> str:
    """The activation that an operation reads."""
    return next((name for name in op.inputs if name not in graph.constants), "")


def _scaled(graph: OnnxGraph) -> bool:
    """Merge a multiplication by a scalar into the layer before or after it."""
    makers, readers = graph.makers(), graph.users()
    for op in graph.operations:
        apart = _apart(graph, op, makers) if op.op in ("Mul", "Div") else None
        number = _scalar(apart[1]) if apart else None
        if apart is None or not number or (op.op == "Div" and op.inputs[0] != apart[0]):
            continue
        factor, before = number if op.op == "Mul" else 1 / number, makers[apart[0]]
        same = {op.outputs[0]: apart[0]}
        if before.op in LAYERS and _alone(graph, apart[0], readers):
            if not _multiply(graph, before, factor, 0.0, op.outputs):
                continue
            same = {}
        elif not _into_next(graph, op, factor, readers):
            continue
        graph.operations = [
            replace(one, inputs=tuple(same.get(n, n) for n in one.inputs))
            for one in graph.operations
            if one is not op
        ]
        return True
    return False


def _into_next(
    graph: OnnxGraph, op: Operation, factor: float, readers: dict[str, list[Operation]]
) -> bool:
    """Multiply the weights of the layer behind, if it alone reads this; False if there is none."""
    behind = op
    while behind is op or behind.op in MOVES:
        name = behind.outputs[0]
        others = [one for one in readers.get(name, ()) if one.op != "Shape"]
        if len(others) != 1 or name == graph.result:
            return False
        behind = others[0]
    weight = graph.constants.get(behind.inputs[1]) if behind.op in LAYERS else None
    if weight is None or _read(graph, behind) == behind.inputs[1]:
        return False
    changed = _constant(graph, behind.inputs[1], weight * np.float32(factor))
    inputs = (behind.inputs[0], changed, *behind.inputs[2:])
    _replace(graph, behind, replace(behind, inputs=inputs))
    return True


def _multiply(
    graph: OnnxGraph, layer: Operation, factor: float, added: Array | float = 0.0,
    outputs: tuple[str, ...] = (),
) -> bool:  # fmt: skip
    """Let a layer give ``factor y + added``, under other names if some are given; False if its
    numbers are not known."""
    weight = graph.constants.get(layer.inputs[1])
    given = layer.inputs[2] if len(layer.inputs) > 2 else ""
    if weight is None or (given and given not in graph.constants):
        return False
    bias = graph.constants[given] if given else np.zeros(len(weight), np.float32)
    scaled = weight if factor == 1.0 else weight * np.float32(factor)
    shifted = (bias * np.float32(factor) + added).astype(np.float32)
    inputs = [layer.inputs[0], _constant(graph, layer.inputs[1], scaled)]
    if given or np.any(shifted):
        inputs.append(_constant(graph, layer.outputs[0], shifted))
    changed = replace(layer, inputs=tuple(inputs), outputs=outputs or layer.outputs)
    _replace(graph, layer, changed)
    return True


def _hard_sigmoid(graph: OnnxGraph) -> bool:
    """A hard sigmoid of another slope behind a layer is the usual one of other weights:
    ``clip(a y + b, 0, 1) = clip((6 a y + 6 b - 3) / 6 + 1/2, 0, 1)``."""
    makers, readers = graph.makers(), graph.users()
    for op in graph.operations:
        alpha, beta = op.get("alpha", 0.2), op.get("beta", 0.5)
        if op.op != "HardSigmoid" or is_usual(alpha, beta):
            continue
        layer = makers.get(op.inputs[0])
        if layer is None or layer.op not in LAYERS or not _alone(graph, op.inputs[0], readers):
            continue
        if not _multiply(graph, layer, 6 * alpha, 6 * beta - 3):
            continue
        _replace(graph, op, replace(op, attributes={"alpha": 1 / 6, "beta": 0.5}))
        return True
    return False
