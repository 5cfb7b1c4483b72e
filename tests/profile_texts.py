"""What the profiler of each device writes of two layers, named as ``apq lut probe`` names them."""

import json

from apq.hardware.profiles import key_of
from apq.space import Layer

BLOCK = Layer("mbconv", 16, 16, 8, 8, 3, 1, 16, 8, 8, 48, 8, 8)
A, B = key_of(BLOCK), key_of(Layer("conv", 3, 16, 8, 8, 3))

LITERT = f"""Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0, 0.11, 0.25, 50%, 50%, 0, 1, [{A}/expand]:0
CONV_2D, 0.2, 0.1, 0.5, 40%, 90%, 0, 1, [{A}/project]:1
CONV_2D, 0.3, 0.1, 0.125, 10%, 100%, 0, 1, [{B}/layer]:0
"""
OLD = "\n".join(
    line if i < 2 else ",".join(c for j, c in enumerate(line.split(",")) if j != 1)
    for i, line in enumerate(LITERT.split("\n"))
)
ORT = json.dumps([
    {"cat": "Session", "name": "model_run", "dur": 900},
    *({"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": {"op_name": "Conv"}}
      for name, dur in ((f"{A}/expand", 250), (f"{A}/project", 500), (f"{B}/layer", 125))),
])  # fmt: skip
VELA = f"""Original Operator,NNG Operator,Target,Op Cycles,MAC Count,Name
Conv2D,Conv2D,NPU,125000,9,{A}/expand
Conv2D,Relu,NPU,0,0,{A}/expand
Conv2D,Conv2D,NPU,250000,9,{A}/project
Conv2D,Conv2D,NPU,62500,9,{B}/layer
"""
OLD_VELA = VELA.replace("Original Operator", "TFLite_operator")
TRT = json.dumps([
    {"count": 100},
    *({"name": n, "timeMs": 100 * ms, "averageMs": ms, "percentage": 1}
      for n, ms in ((f"{A}/expand", 0.25), (f"{A}/project", 0.5), (f"{B}/layer", 0.125))),
])  # fmt: skip
OPENVINO = f"""layerName;execStatus;layerType;execType;realTime (ms);cpuTime (ms);
{A}/expand;EXECUTED;Convolution;jit;0,25;0,25;
{A}/project;EXECUTED;Convolution;jit;0.5;0.5;
{B}/layer;EXECUTED;Convolution;jit;0.125;0.1;
Total;;;;0.875;0.8;
"""
TSV = f"""event_name\tp50 (ms)\tavg (ms)\top_types
Method::execute\t0.9\t0.9\t[]
{A}/expand\t0.25\t0.25\t[]
{A}/project\t0.5\t0.5\t[]
{B}/layer\t0.1\t0.125\t[]
"""
ST = f""" duration    : 99.405 ms (average)
Inspector report (layer by layer)
Clayer  id  desc                          oshape            ms
-----------------------------------------------------------------
0       0   {A}/expand                    (1,8,8,48)        0.25
1       1   {A}/project                   (1,8,8,16)        0.5
2       2   {B}/layer                     (1,8,8,16)        0.125
"""
HUB = json.dumps({
    "execution_summary": {"estimated_inference_time": 875},
    "execution_detail": [
        {"name": n, "type": "Conv", "compute_unit": "NPU", "execution_time": t}
        for n, t in ((f"{A}/expand", 250), (f"{A}/project", 500), (f"{B}/layer", 125))
    ],
})  # fmt: skip
TEXTS = {
    "litert": LITERT, "onnxruntime": ORT, "vela": VELA, "trtexec": TRT, "openvino": OPENVINO,
    "executorch": TSV, "st": ST, "aihub": HUB,
}  # fmt: skip
