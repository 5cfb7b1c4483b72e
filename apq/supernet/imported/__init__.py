"""Networks from ONNX files, as torch modules that :func:`apq.supernet.trace.trace` reads."""

from apq.supernet.imported.network import OnnxNetwork as OnnxNetwork
from apq.supernet.imported.network import difference as difference
from apq.supernet.imported.network import read_onnx as read_onnx
