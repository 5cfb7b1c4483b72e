"""apq: predictor-driven joint search of architecture, pruning and quantization.

    import apq

    space = apq.load_space("digits")
    images = apq.load_images("digits", space.resolution, space.in_channels, space.classes)
    supernet, about = apq.train_supernet(space, images, apq.SupernetRecipe(epochs=12))

The names below are the library; each says shapes, units and errors where it is defined. None is
loaded before it is used, so ``import apq`` is quick and needs no torch.
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
    "trace": "apq.supernet.trace:trace",
    "train_supernet": "apq.supernet.training:train_supernet",
    "SupernetRecipe": "apq.supernet.training:Recipe",
    "save_supernet": "apq.supernet:save_supernet",
    "load_supernet": "apq.supernet:load_supernet",
    "collect_samples": "apq.collect:collect",
    "Quantization": "apq.collect:Quantization",
    "read_samples": "apq.samples:read_samples",
    "train_predictor": "apq.predictor:train_predictor",
    "load_predictor": "apq.predictor:load_predictor",
    "LookupTable": "apq.hardware:LookupTable",
    "load_cost_model": "apq.hardware:load_cost_model",
    "build_table": "apq.hardware:build_table",
    "price_space": "apq.hardware:price_space",
    "Problem": "apq.search.problem:Problem",
    "search_front": "apq.search.search:search",
    "finetune": "apq.deploy.finetune:finetune_candidate",
    "FinetuneRecipe": "apq.deploy.finetune:FinetuneRecipe",
    "export": "apq.deploy.export:export",
    "verify": "apq.deploy.verify:verify",
}
"""Where each name is defined."""

__all__ = [
    "ApqError", "Candidate", "FinetuneRecipe", "LookupTable", "Problem", "Quantization",
    "Space", "SupernetRecipe", "build_table", "collect_samples", "export", "finetune",
    "load_cost_model", "load_images", "load_predictor", "load_space", "load_supernet",
    "price_space", "read_samples", "save_supernet", "search_front", "trace", "train_predictor",
    "train_supernet", "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from apq.collect import Quantization as Quantization
    from apq.collect import collect as collect_samples
    from apq.deploy.export import export as export
    from apq.deploy.finetune import FinetuneRecipe as FinetuneRecipe
    from apq.deploy.finetune import finetune_candidate as finetune
    from apq.deploy.verify import verify as verify
    from apq.errors import ApqError as ApqError
    from apq.hardware import LookupTable as LookupTable
    from apq.hardware import build_table as build_table
    from apq.hardware import load_cost_model as load_cost_model
    from apq.hardware import price_space as price_space
    from apq.images import load_images as load_images
    from apq.predictor import load_predictor as load_predictor
    from apq.predictor import train_predictor as train_predictor
    from apq.samples import read_samples as read_samples
    from apq.search.problem import Problem as Problem
    from apq.search.search import search as search_front
    from apq.space import Candidate as Candidate
    from apq.space import Space as Space
    from apq.space import load_space as load_space
    from apq.supernet import load_supernet as load_supernet
    from apq.supernet import save_supernet as save_supernet
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
