"""The trained predictor, from candidates to accuracy and spread, without running a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from apq.cost import Cost
from apq.errors import ModelError, SamplesError
from apq.files import bounded_json, parse_json, shipped, to_json, whole
from apq.files.tensors import read_tensors, require_tensors, weights_hash
from apq.predictor import gaussian_process, network
from apq.predictor.columns import TableFeatures
from apq.predictor.features import Features, Groups, Inputs, SpaceFeatures, one_hot, width
from apq.predictor.gaussian_process import GaussianProcess
from apq.predictor.network import Network
from apq.predictor.schema import (
    FormatOnly,
    NetworkTable,
    PredictorHeader,
    SpaceFeaturesTable,
)
from apq.space import Space
from apq.version import __version__

Array = NDArray[np.float64]

FORMAT = 3
"""Version of the file's layout and of the columns a predictor sees; only this one is read."""

KINDS: dict[str, type[Network] | type[GaussianProcess]] = {
    "network": Network,
    "kernel": GaussianProcess,
}
"""Kinds of models, by the name in a predictor's file."""


@dataclass(frozen=True)
class Warp:
    """The map between accuracies and the standardised targets that models are fitted to.

    With a ceiling: ``z = (-log(ceiling - accuracy) - mean) / std`` (ours). Accuracies of good
    candidates crowd below a ceiling and bad ones trail off; the logarithm evens this out.
    """

    ceiling: float | None
    mean: float
    std: float

    @classmethod
    def of(cls, accuracy: Array, *, log: bool) -> Warp:
        """The map for these measurements; the ceiling lies two deviations above the best, but not
        above 100 % unless a measurement is that good."""
        ceiling = None
        if log:
            best, deviation = float(accuracy.max()), float(accuracy.std())
            ceiling = min(best + 2 * deviation, max(1.0, best + deviation / 4))
        raw = cls(ceiling, 0.0, 1.0).to_target(accuracy)
        return cls(ceiling, float(raw.mean()), float(raw.std()) or 1.0)

    def to_target(self, accuracy: Array) -> Array:
        """Standardised targets of accuracies below the ceiling."""
        raw = accuracy if self.ceiling is None else -np.log(self.ceiling - accuracy)
        z: Array = (raw - self.mean) / self.std
        return z

    def to_accuracy(self, mean: Array, deviation: Array) -> tuple[Array, Array]:
        """Back to accuracies; the deviation by the slope of the map at the mean."""
        raw = mean * self.std + self.mean
        if self.ceiling is None:
            return raw, deviation * self.std
        below = np.exp(-raw)
        return self.ceiling - below, deviation * self.std * below


@dataclass(frozen=True)
class Predictor:
    """Predicts the accuracy of candidates (in the unit of the samples, fractions for apq's own) and
    its spread.

    Attributes:
        features: Its input features, which hold the space.
        models: One model, or two; the second is then a process that also reads the first's output.
        warp: Map between the last model's targets and accuracies.
        bits: Whether the last model sees bit columns; the first of two never does.
        calibration: Factor on the spread, chosen on held-out rows so that
            ``mean ± 1.645 * spread`` covers 90 % of them (split conformal prediction).
        report: Held-out errors, sample counts, seed, hash of the supernet: what made it.
    """

    features: Features
    models: tuple[Network | GaussianProcess, ...]
    warp: Warp
    bits: bool
    calibration: float = 1.0
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """The space whose genes it takes.

        Raises:
            ModelError: it was trained on a table that is not of a space.
        """
        if not isinstance(self.features, SpaceFeatures):
            raise ModelError("this predictor scores rows of a table, not genes of a space")
        return self.features.space

    def predict(self, candidates: Any, *, batch: int = 1024) -> tuple[Array, Array]:
        """Predict n candidates.

        Args:
            candidates: Genes ``(n, axes)``, or a table's rows if it was trained on one.
            batch: How many at a time (bounds memory).

        Returns:
            Mean accuracy and spread (calibrated deviation of one measurement), float64 ``(n,)``.
        """
        means, spreads = [np.empty(0)], [np.empty(0)]
        for start in range(0, len(candidates), batch):
            inputs = self.features.inputs(candidates[start : start + batch])
            mean, spread = self.predict_inputs(inputs)
            means.append(mean)
            spreads.append(spread)
        return np.concatenate(means), np.concatenate(spreads)

    def predict_inputs(self, inputs: Inputs) -> tuple[Array, Array]:
        """As :meth:`predict`, from inputs that were computed before."""
        mean, deviation = self.warp.to_accuracy(*self.latent(inputs))
        return mean, deviation * self.calibration

    def latent(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean and deviation in the last model's standardised units."""
        mean, deviation = np.empty(0), np.empty(0)
        for i, model in enumerate(self.models):
            if isinstance(model, Network):
                mean, deviation = model.predict(inputs)
            else:
                last = i + 1 == len(self.models)
                columns = process_columns(
                    inputs, self.features, self.bits and last, mean if i else None
                )
                mean, deviation = model.predict(columns)
        return mean, deviation

    def covariance(self, candidates: Any) -> Array:
        """Covariance ``(n, n)`` of the predictions of n candidates without measurement noise, in
        squared units of :meth:`predict`'s spread. Takes n^2 memory."""
        inputs = self.features.inputs(candidates)
        last = self.models[-1]
        if isinstance(last, Network):
            latent = last.covariance(inputs)
        else:
            answer = None
            if len(self.models) > 1:
                answer = replace(self, models=self.models[:-1], bits=False).latent(inputs)[0]
            latent = last.covariance(process_columns(inputs, self.features, self.bits, answer))
        slope = self.warp.to_accuracy(self.latent(inputs)[0], np.ones(len(latent)))[1]
        slope = slope * self.calibration
        return latent * slope[:, None] * slope

    def save(self, path: Path | str, cost: Cost | None = None) -> None:
        """Write one safetensors file; its header holds the rest as JSON. Never pickle.

        Args:
            path: The file.
            cost: Cost of its training, not part of the file's hash, so that equal predictors have
                equal hashes.

        Raises:
            ModelError: the file cannot be written; an older one is kept.
        """
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        models = []
        for i, model in enumerate(self.models):
            kind = next(name for name, cls in KINDS.items() if isinstance(model, cls))
            models.append({"kind": kind, **model.to_dict()})
            tensors |= {f"{i}.{name}": t.contiguous() for name, t in model.tensors().items()}
        about = {
            "format": FORMAT,
            "apq": __version__,
            "features": self.features.to_dict(),
            "models": models,
            "warp": [self.warp.ceiling, self.warp.mean, self.warp.std],
            "bits": self.bits,
            "calibration": self.calibration,
            "report": dict(self.report),
        }
        if isinstance(self.features, SpaceFeatures):
            about["fingerprint"] = self.features.space.fingerprint
        about = bounded_json(to_json(about))  # as it will be read back
        about["hash"] = content_hash(about, tensors)
        try:
            made = {} if cost is None else {"cost": to_json(dict(cost))}
            with whole(path) as temporary:
                save_file(tensors, temporary, metadata={"apq-predictor": json.dumps(about), **made})
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot write {path}: {error}") from error


def content_hash(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Hash of a predictor's file, its own ``hash`` aside, 16 hex digits."""
    text = json.dumps({k: v for k, v in about.items() if k != "hash"}, sort_keys=True)
    return hashlib.sha256((text + weights_hash(dict(tensors))).encode()).hexdigest()[:16]


def process_columns(
    inputs: Inputs, features: Features, bits: bool, answer: Array | None
) -> NDArray[np.float32]:
    """Inputs of a process: another model's output first if there is one, then smooth columns, then
    the one-hot code; in the order of :func:`process_groups`."""
    parts = [inputs.arch, one_hot(inputs.arch_hot, width(features.arch_hot_groups))]
    if bits:
        parts += [inputs.bits, one_hot(inputs.bits_hot, width(features.bits_hot_groups))]
    if answer is not None:
        parts.insert(0, answer[:, None].astype(np.float32))
    return np.concatenate(parts, axis=1)


def process_groups(features: Features, bits: bool, answer: bool) -> Groups:
    """Names and widths of the columns of :func:`process_columns`."""
    groups: Groups = (("answer", 1),) if answer else ()
    groups += features.arch_groups + features.arch_hot_groups
    return groups + (features.bits_groups + features.bits_hot_groups if bits else ())


def load_predictor(path: Path | str, space: Space | None = None) -> Predictor:
    """Read a predictor.

    Args:
        path: A file written by :meth:`Predictor.save`, yours or installed with apq.
        space: Refuse a predictor of another space.

    Raises:
        ModelError: the file is missing, is no predictor, or is damaged.
        SpaceError: it was trained for another space; the message shows the differences.

    Example:
        >>> import apq
        >>> space = apq.load_space("digits")
        >>> predictor = apq.load_predictor("digits/predictor.safetensors", space)
        >>> accuracy, spread = predictor.predict(space.genes([space.build([0] * len(space.axes))]))
        >>> accuracy.shape
        (1,)
    """
    path = shipped(path)
    if not path.is_file():
        raise ModelError(f"no predictor at {path}; apq train-predictor --out {path} makes one")
    tensors, texts = read_tensors(path, FormatOnly.what)
    text = texts.get("apq-predictor")
    if text is None:
        raise ModelError(
            f"{path} is a safetensors file, but no predictor of apq: apq train-predictor writes one"
        )
    told = parse_json(text, FormatOnly, str(path))
    if told.format != FORMAT:
        mend = "Upgrade apq." if told.format > FORMAT else "Train it again: apq train-predictor."
        raise ModelError(
            f"{path} has format {told.format} (apq {told.apq}); this apq {__version__} reads "
            f"{FORMAT}. {mend}"
        )
    header = PredictorHeader.of(told.said, str(path))
    if header.hash != content_hash(header.said, tensors):
        raise ModelError(
            f"{path} is damaged: its content does not have the hash stored with it. Train it "
            "again (apq train-predictor), or take another copy."
        )
    try:
        features = _features(header)
    except SamplesError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if space is not None:
        own = Predictor(features, (), Warp(None, 0, 1), False).space
        own.require_same(space, str(path), "the space asked for")
    require_tensors(str(path), tensors, _expected(header, features, tensors))
    models: list[Network | GaussianProcess] = []
    for i, made in enumerate(header.models):
        own_tensors = {
            n.removeprefix(f"{i}."): t for n, t in tensors.items() if n.startswith(f"{i}.")
        }
        if isinstance(made, NetworkTable):
            models.append(
                Network.from_parts(
                    own_tensors, members=made.members, hidden=made.hidden, floor=made.floor
                )
            )
        else:
            models.append(
                GaussianProcess.from_parts(
                    own_tensors, amplitude=made.amplitude, square=made.square, noise=made.noise
                )
            )
    return Predictor(
        features, tuple(models), Warp(*header.warp), header.bits, header.calibration, header.report
    )


def _features(header: PredictorHeader) -> Features:
    """The features of a predictor.

    Raises:
        SamplesError: kernels or hidden widths of a table do not fit its space.
    """
    made = header.features
    if isinstance(made, SpaceFeaturesTable):
        return SpaceFeatures(made.space, smooth=made.smooth)
    values = {name: list(found) for name, found in made.values.items()}
    return TableFeatures(made.columns.build(), values, smooth=made.smooth)


def _expected(
    header: PredictorHeader, features: Features, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors the file should hold, on the meta device. How many rows and anchors a process
    has is what its tensors say."""
    found = {}
    for i, made in enumerate(header.models):
        bits = header.bits and i + 1 == len(header.models)
        if isinstance(made, NetworkTable):
            wanted, dtype = (
                network.shapes(features, bits=bits, members=made.members, hidden=made.hidden),
                torch.float32,
            )
        else:
            lengths = [
                tensors[name].shape[0] if name in tensors and tensors[name].dim() else 0
                for name in (f"{i}.rows", f"{i}.explained")
            ]
            columns = width(process_groups(features, bits, answer=i > 0))
            wanted, dtype = gaussian_process.shapes(columns, *lengths), torch.float64
        for name, shape in wanted.items():
            found[f"{i}.{name}"] = torch.empty(shape, dtype=dtype, device="meta")
    return found
