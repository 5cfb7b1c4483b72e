"""apq: predictor-driven joint search of architecture, pruning and quantization."""

__version__ = "0.1.0"
