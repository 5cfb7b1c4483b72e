"""A network as the list of convolutions a device runs, and onnxruntime to run it."""
