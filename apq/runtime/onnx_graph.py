"""Write folded layers as ONNX, node by node: the file holds weights and a few dozen nodes with the
subnet's own layer names. Needs the extra ``apq-nas[onnx]``.

Three forms:

``qdq``
    QuantizeLinear/DequantizeLinear pairs around float operators, which runtimes fuse into integer
    kernels. Every tensor between layers is bytes; fewer bits are clamped in the integer domain,
    where it does not prevent fusion. onnxruntime then equals :func:`apq.quantize.integer.run` bit
    for bit. A runtime that does not fuse, or rounds differently, differs by isolated levels.
``integer``
    The same arithmetic in standard operators. It gives the same bits on every runtime that follows
    the standard, but is slower.
``qonnx``
    Float weights behind Quant nodes of any bitwidth (arXiv:2206.07527), for FINN and hls4ml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from apq.quantize.integer import IntegerLayer, Step
from apq.runtime.folded import FloatLayer, Steps, weight_shape
from apq.runtime.onnx_file import OnnxTensor, require_onnx
from apq.runtime.onnx_integer import Integers, Pairs
from apq.runtime.onnx_real import Qonnx, Reals
from apq.runtime.onnx_writer import Writer
from apq.space.graph import walk
from apq.space.layer import Size, both

if TYPE_CHECKING:
    import onnx

FORMS: dict[str, Callable[[bool], Writer]] = {"qdq": Pairs, "integer": Integers, "qonnx": Qonnx}


def onnx_model(
    steps: Steps,
    input_shape: tuple[int | None, int, int, int],
    metadata: Mapping[str, str],
    form: str = "qdq",
    int2: bool = False,
    opset: int | None = None,
    part: bool = False,
) -> onnx.ModelProto:
    """Build an ONNX model.

    Args:
        steps: From :func:`apq.runtime.folded.fold`, in the order they run; or the last ones of
            them, then the input is what the first of these reads.
        input_shape: ``(batch, channels, height, width)``, fixed. A batch of None means any
            number of images: the dimension is the symbol ``batch``.
        metadata: Written into the model's properties.
        form: One of ``FORMS``, see the module's head. Float networks look the same in all.
        int2: Store 2-bit weights in 2 bits instead of 4. Needs opset 25, which few runtimes read.
        opset: Version of ONNX's operators. None means the smallest that has what the file uses:
            13, or 21 with types of 4 bits, 25 with those of 2.
        part: Whether the steps are a part of a network, whose input and output are tensors between
            layers (bytes in form ``qdq``).

    Returns:
        A checked model with input ``image`` (normalised) and output ``logits``.

    Raises:
        ApqError: onnx is missing, it has no type of 2 bits, the form cannot express a layer, or
            the file cannot have this opset (the message names those it can have).
    """
    require_onnx()
    layers = [step.layer for step in steps if step.layer is not None]
    graph: Writer = Reals() if isinstance(layers[0], FloatLayer) else FORMS[form](int2)
    sides = {"image": input_shape[2:]}

    def write(step: Step[IntegerLayer | FloatLayer], *inputs: OnnxTensor) -> OnnxTensor:
        side = sides.get(step.inputs[0], input_shape[2:])
        sides[step.name] = _moved(step, side)
        if step.layer is not None:
            return graph.layer(step.name, step.layer, inputs[0])
        if step.op == "pool":
            sides[step.name] = 1, 1
            return graph.mean(step.name, inputs[0], step.grid, side[0] * side[1])
        if step.op == "concat":
            return graph.concat(step.name, inputs, step.grid)
        if step.op == "maxpool":
            return graph.largest(step.name, inputs[0], step.grid, *step.window)
        if step.op == "act":
            return graph.curve(step.name, inputs[0], step.grid, step.act)
        if step.op == "scale":
            return graph.scaled(step.name, inputs, step.grid)
        return graph.add(step.name, inputs, step.grid, step.act)

    first = OnnxTensor("image", steps[0].grid) if part else graph.image(steps[0].grid)
    x = walk(steps, first, write)
    classes, given = weight_shape(layers[-1])[0], x.grid if part else None
    shape: tuple[int | None, ...] = (classes,)
    if part and steps[-1].op != "linear":
        shape = (classes, None, None)
        graph.node("Identity", [x.name], "given", output="logits")
    elif graph.flat != "logits":
        graph.node("Flatten", [x.name], "flatten", output="logits")
    ends = (("image", input_shape[1:], part and first.grid), ("logits", shape, given))
    model: onnx.ModelProto = graph.model(input_shape[0], ends, metadata, opset)
    return model


def _moved(step: Step[IntegerLayer | FloatLayer], side: tuple[int, int]) -> tuple[int, int]:
    """Output height and width of a convolution or max pooling, from its input's."""
    if step.layer is None:
        kernel, stride = step.window
        padding = kernel // 2 if kernel % 2 else 0
        moves: Size = stride
    else:
        kernel, moves = weight_shape(step.layer)[-1], step.layer.stride
        padding = step.layer.padding
    height, width = ((n + 2 * padding - kernel) // move + 1
                     for n, move in zip(side, both(moves), strict=True))  # fmt: skip
    return height, width
