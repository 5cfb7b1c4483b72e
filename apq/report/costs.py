"""Cost of a pipeline: the artefacts that a run was made from, found by their hashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from apq.cost import Cost, Footprint, Rates, device_hours, summed
from apq.errors import ApqError
from apq.files import Document, bounded_json, file_digest
from apq.files.headers import read_header
from apq.files.places import PREDICTOR, SUPERNET, home
from apq.files.reading import CostTable, Items, Text
from apq.hardware.lut import LookupTable
from apq.samples import part_files, read_samples
from apq.search.best import Best, read_best
from apq.search.tuned import ModelHeader
from apq.supernet.files import SupernetHeader


@dataclass(frozen=True)
class Stage:
    """One artefact of a pipeline.

    Attributes:
        name: Kind of artefact.
        path: Its path.
        cost: Cost of making it; None: not known.
        note: Where the figure comes from, or why there is none.
        each: Whether every deployment needs a new one.
    """

    name: str
    path: Path
    cost: Cost | None
    note: str = ""
    each: bool = False


@dataclass(frozen=True)
class Pipeline:
    """The artefacts that a run was made from.

    Attributes:
        stages: Artefacts in order.
        candidates: Number of candidates that the search scored; 0: there was no search.
        epochs: Passes over the training images that made the supernet; 0: not known.
        epoch: Cost of one epoch of fine-tuning; None: nothing was fine-tuned.
    """

    stages: tuple[Stage, ...]
    candidates: int = 0
    epochs: float = 0.0
    epoch: Cost | None = None

    def total(self, rates: Rates) -> Footprint:
        """All stages that say what they cost."""
        return _footprint([s.cost for s in self.stages if s.cost is not None], rates)

    def marginal(self, rates: Rates) -> Footprint:
        """One more deployment: a search, and a fine-tune (the mean of those there are)."""
        tunes = [s.cost for s in self.stages if s.each and s.name == TUNED and s.cost is not None]
        others = [s.cost for s in self.stages if s.each and s.name != TUNED and s.cost is not None]
        mean = _footprint(tunes, rates).times(1 / max(1, len(tunes)))
        return _footprint(others, rates) + mean

    def training(self, rates: Rates, epochs: float | None = None) -> Footprint | None:
        """Training one network from random weights, at the pace of the fine-tune; None: not known.

        Args:
            rates: Rates of energy and prices.
            epochs: Passes over the training images; None: as many as the supernet had.
        """
        passes = self.epochs if epochs is None else epochs
        if self.epoch is None or not passes:
            return None
        return _footprint([self.epoch], rates).times(passes)


SUPERNETS, TUNED, SEARCHED = "supernet", "fine-tune", "search"


def _footprint(costs: list[Cost], rates: Rates) -> Footprint:
    all_of_them = summed(costs)
    return rates.of(device_hours(all_of_them) if all_of_them else {})


def pipeline(
    path: Path,
    supernet: Path | None = None,
    predictor: Path | None = None,
    samples: Path | None = None,
    quantized_samples: Path | None = None,
) -> Pipeline:
    """Cost of a run, or of a single artefact.

    A run's ``best.json`` names its supernet and predictor by their hashes and its tables by their
    paths; they are looked for in the run's own folder, then in ``data/SPACE``. Artefacts with other
    hashes are listed but not counted.

    Args:
        path: A run's folder, a folder with a supernet and what was made of it, or a single file or
            folder of samples.
        supernet, predictor, samples, quantized_samples: Where these are, if elsewhere.

    Raises:
        ApqError: there is nothing at ``path`` that apq made, or a file is damaged.
    """
    given = {SUPERNETS: supernet, "predictor": predictor}
    given |= {"fp32": samples, "quantized": quantized_samples}
    if path.is_file() or (path.is_dir() and part_files(path) and not (path / "best.json").exists()):
        return Pipeline((_one(path),))
    best = read_best(path / "best.json") if (path / "best.json").is_file() else None
    own = path if best is None or (path / SUPERNET).is_file() else home(best.space.name)
    wanted = best.made_from.get("supernet") if best else None
    stages = [*_supernets(given[SUPERNETS] or own / SUPERNET, wanted)]
    if stages and wanted is None and stages[0].path.is_file():
        wanted = read_header(stages[0].path, SupernetHeader).hash
    for kind in ("fp32", "quantized"):
        stages += _samples(given[kind] or own / kind, f"{kind} samples", wanted)
    stages += _predictor(given["predictor"] or own / PREDICTOR, best)
    stages += _tables(best)
    if best is not None:
        stages.append(_searched(path / "best.json", best))
    models = [*path.glob("*.safetensors"), *path.glob("models/*.safetensors")]
    tuned = [*_tuned(sorted(models))]
    stages += [stage for stage, _ in tuned]
    if not stages:
        raise ApqError(
            f"{path} holds nothing that apq made: no best.json, supernet.safetensors, samples or "
            "models. Give the folder of a run, as in apq cost runs/search."
        )
    epoch = next((epoch for _, epoch in tuned if epoch is not None), None)
    searched = best.search.candidates if best else 0
    return Pipeline(tuple(stages), searched, _epochs(stages), epoch)


class StartedFrom(Document):
    """Part of a supernet's header: the hashes of the supernets it started from."""

    what = "a supernet as apq train-supernet writes it"

    start_from: Items[Text] = ()


def _silent(cost: Cost | None) -> str:
    return "" if cost is not None else "its file does not say"


def _supernets(path: Path, wanted: str | None) -> Iterator[Stage]:
    """A supernet, and those it was started from, if they are in the same folder."""
    if not path.is_file():
        if wanted is not None:
            yield Stage(SUPERNETS, path, None, f"{wanted} is not there; give --supernet")
        return
    header = read_header(path, SupernetHeader)
    if wanted not in (None, header.hash):
        note = f"this is {header.hash}, the run is about {wanted}; give --supernet"
        yield Stage(SUPERNETS, path, None, note)
        return
    made = None if header.cost is None else header.cost.model_dump()
    yield Stage(SUPERNETS, path, made, _silent(made))
    missing = 0
    files = {f: _hash(f) for f in sorted(path.parent.glob("*.safetensors")) if f != path}
    for earlier in dict.fromkeys(StartedFrom.of(header.said, str(path)).start_from):
        found = next((f for f, own in files.items() if own == earlier), None)
        missing += found is None
        if found is not None:
            yield from _supernets(found, earlier)
    if missing:
        note = f"{missing} that it was started from are not beside it, so not counted"
        yield Stage("earlier supernets", path.parent, None, note)


def _hash(path: Path) -> str | None:
    try:
        return read_header(path, SupernetHeader).hash
    except ApqError:  # another kind of file
        return None


def _epochs(stages: list[Stage]) -> float:
    """Passes over the training images of all supernets in a pipeline."""
    total = 0.0
    for stage in stages:
        if stage.name == SUPERNETS and stage.path.is_file():
            recipe = read_header(stage.path, SupernetHeader).said.get("recipe")
            passes = recipe.get("epochs") if isinstance(recipe, Mapping) else None
            total += float(passes) if isinstance(passes, int | float) else 0.0
    return total


def _samples(path: Path, name: str, wanted: str | None) -> Iterator[Stage]:
    """A folder of samples. Where parts do not say what they cost, the samples' own times do."""
    if not path.exists():
        return
    found = read_samples(path)
    if wanted not in (None, found.supernet):
        note = f"of another supernet ({found.supernet}), not counted"
        yield Stage(name, path, None, note)
        return
    name = f"{len(found):,} {name}"
    if found.cost is not None:
        yield Stage(name, path, found.cost)
        return
    seconds = float(found.frame["seconds"].sum())
    times = {"wall_s": seconds, "cpu_s": seconds, "device": "CPU"}
    yield Stage(name, path, times, "the times of its samples, one core each")


class _Costly(Document):
    """The cost in the header of a predictor or a table."""

    what = "what making a file cost"

    cost: CostTable | None = None


def _cost_in(text: str | None, where: str) -> Cost | None:
    if text is None:
        return None
    try:
        data = bounded_json(text)
    except ValueError as error:
        raise ApqError(f"{where} is damaged: its cost: {error}") from None
    made = _Costly.of({"cost": data}, where).cost
    return None if made is None else made.model_dump()


def _predictor(path: Path, best: Best | None) -> Iterator[Stage]:
    if not path.is_file():
        return
    wanted = best.made_from.get("predictor") if best else None
    if wanted not in (None, file_digest(path)):
        yield Stage("predictor", path, None, "another than the run's; give --predictor")
        return
    with safe_open(str(path), framework="numpy") as file:
        text = (file.metadata() or {}).get("cost")
    made = _cost_in(text, str(path))
    yield Stage("predictor", path, made, _silent(made))


def _tables(best: Best | None) -> Iterator[Stage]:
    """Measured tables; simulated ones take negligible time."""
    names = [n.removeprefix("lut:") for n in (best.made_from if best else {}) if n[:4] == "lut:"]
    for path in (Path(name) for name in names):
        if path.is_file():
            text = LookupTable.read(path).header.get("cost")
            if text is not None:
                yield Stage("table", path, _cost_in(text, str(path)))


def _tuned(paths: Iterable[Path]) -> Iterator[tuple[Stage, Cost | None]]:
    """The fine-tuned models among files, and what a pass of each cost."""
    for path in paths:
        try:
            header = read_header(path, ModelHeader)
        except ApqError:  # another kind of file
            continue
        made = header.accuracy.cost if header.accuracy else None
        cost = None if made is None else made.model_dump()
        epochs = header.recipe.get("epochs")
        per_epoch = _divided(cost, epochs) if cost and isinstance(epochs, int) and epochs else None
        yield Stage(TUNED, path, cost, _silent(cost), each=True), per_epoch


def _searched(path: Path, best: Best) -> Stage:
    cost = None if best.search.cost is None else best.search.cost.model_dump()
    return Stage(SEARCHED, path, cost, _silent(cost), each=True)


def _divided(cost: Cost, by: int) -> dict[str, Any]:
    held = {kind: value / by for kind, value in (cost.get("accelerators") or {}).items()}
    seconds = {name: cost[name] / by for name in ("wall_s", "cpu_s")}
    return {**seconds, "device": cost["device"], "accelerators": held}


def _one(path: Path) -> Stage:
    """A single artefact."""
    if path.is_dir() or path.suffix == ".parquet":
        return next(_samples(path, "samples", None))
    if path.suffix == ".json":
        return _searched(path, read_best(path))
    if path.suffix == ".csv":
        made = _cost_in(LookupTable.read(path).header.get("cost"), str(path))
        return Stage("table", path, made, _silent(made))
    with safe_open(str(path), framework="numpy") as file:
        kinds = file.metadata() or {}
    if "apq-predictor" in kinds:
        return next(_predictor(path, None))
    if kinds.get("kind") == '"model"':
        return next(_tuned([path]))[0]
    return next(_supernets(path, None))
