"""apq: predictor-driven joint search of architecture, pruning and quantization.

What the command line does, as functions: each takes plain values and paths, and a ``seed`` where
something is random. :class:`Space` and :class:`Candidate` say what can be searched. In the order of
use:

- :func:`load_space`, :func:`trace`, :func:`read_onnx`: a space by name, from a file, or of a
  trained network, in torch or from an ONNX file.
- :func:`load_images`: images in fixed splits; :class:`Task`: examples, loss and score of a task
  that is not telling classes of images apart.
- :func:`train_supernet` (:class:`SupernetRecipe`), :func:`load_supernet`, :func:`save_supernet`:
  one set of weights for all candidates.
- :func:`collect_samples` (:class:`Quantization`), :func:`read_samples`: measured accuracies;
  :func:`read_measurements`: those somebody else has measured.
- :func:`train_predictor`, :func:`load_predictor`: predicted accuracies of all others.
- :func:`load_cost_model`, :func:`build_table`, :func:`read_lut`, :func:`price_space`: their costs.
- :func:`search_front`, :func:`fair_baselines`: the best candidates within limits, and what was
  tried as hard beside them.
- :func:`finetune` (:class:`FinetuneRecipe`), :func:`load_model`, :func:`export`, :func:`verify`:
  the network that is deployed.

:func:`shipped` says where the data and tables are that apq carries.

Accuracies are fractions; costs are in the unit that their name ends in (``latency_ms``). All errors
that a user can mend are an :class:`ApqError`. Names are loaded when they are first used, so
``import apq`` is quick and needs no torch.

Example:
    >>> import apq
    >>> space = apq.load_space("digits")
    >>> space.resolution, space.in_channels, space.classes
    (8, 1, 10)
    >>> space.count() > 10**9
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from apq.version import __version__ as __version__

_HOME = {
    "ApqError": "apq.errors:ApqError",
    "Space": "apq.space:Space",
    "Candidate": "apq.space:Candidate",
    "load_space": "apq.space:load_space",
    "load_images": "apq.images:load_images",
    "Task": "apq.supernet.task:Task",
    "trace": "apq.supernet.trace:trace",
    "read_onnx": "apq.supernet.imported:read_onnx",
    "SupernetRecipe": "apq.supernet.training:Recipe",
    "train_supernet": "apq.supernet.training:train_supernet",
    "save_supernet": "apq.supernet:save_supernet",
    "load_supernet": "apq.supernet:load_supernet",
    "Quantization": "apq.collect:Quantization",
    "collect_samples": "apq.collect:collect",
    "read_measurements": "apq.predictor.measurements:read_measurements",
    "read_samples": "apq.samples:read_samples",
    "train_predictor": "apq.predictor:train_predictor",
    "load_predictor": "apq.predictor:load_predictor",
    "load_cost_model": "apq.hardware:load_cost_model",
    "build_table": "apq.hardware:build_table",
    "read_lut": "apq.hardware:read_lut",
    "price_space": "apq.hardware:price_space",
    "search_front": "apq.search.search:search_front",
    "fair_baselines": "apq.search.baselines:fair_baselines",
    "FinetuneRecipe": "apq.deploy.finetune:FinetuneRecipe",
    "finetune": "apq.deploy.finetune:finetune_candidate",
    "load_model": "apq.deploy.model:load_model",
    "export": "apq.deploy.export:export",
    "verify": "apq.deploy.verify:verify",
    "shipped": "apq.files.shipped:shipped",
}
"""Where each name is defined, in the order of use. (``collect`` and ``search`` are modules.)"""

__all__ = [
    "ApqError", "Candidate", "FinetuneRecipe", "Quantization", "Space", "SupernetRecipe",
    "Task", "build_table", "collect_samples", "export", "fair_baselines", "finetune",
    "load_cost_model", "load_images", "load_model", "load_predictor", "load_space",
    "load_supernet", "price_space", "read_lut", "read_measurements", "read_onnx", "read_samples",
    "save_supernet", "search_front", "shipped", "trace", "train_predictor", "train_supernet",
    "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from apq.accuracy import Quantization as Quantization
    from apq.collect import collect as collect_samples
    from apq.deploy.export import export as export
    from apq.deploy.finetune import FinetuneRecipe as FinetuneRecipe
    from apq.deploy.finetune import finetune_candidate as finetune
    from apq.deploy.model import load_model as load_model
    from apq.deploy.verify import verify as verify
    from apq.errors import ApqError as ApqError
    from apq.files.shipped import shipped as shipped
    from apq.hardware import build_table as build_table
    from apq.hardware import load_cost_model as load_cost_model
    from apq.hardware import price_space as price_space
    from apq.hardware import read_lut as read_lut
    from apq.images import load_images as load_images
    from apq.predictor import load_predictor as load_predictor
    from apq.predictor import train_predictor as train_predictor
    from apq.predictor.measurements import read_measurements as read_measurements
    from apq.samples import read_samples as read_samples
    from apq.search.baselines import fair_baselines as fair_baselines
    from apq.search.search import search_front as search_front
    from apq.space import Candidate as Candidate
    from apq.space import Space as Space
    from apq.space import load_space as load_space
    from apq.supernet import load_supernet as load_supernet
    from apq.supernet import save_supernet as save_supernet
    from apq.supernet.imported import read_onnx as read_onnx
    from apq.supernet.task import Task as Task
    from apq.supernet.trace import trace as trace
    from apq.supernet.training import Recipe as SupernetRecipe
    from apq.supernet.training import train_supernet as train_supernet


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'apq' has no attribute {name!r}; it has {', '.join(_HOME)}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*_HOME, "__version__"]
