"""``best.json``: the candidate chosen by a search, its predicted figures, and its sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from apq.errors import SpaceError
from apq.files import Document, Schema, Sealed, read_json
from apq.files.reading import CostTable, Count, Items, Named, Text
from apq.space import Choice, is_format
from apq.space.formats import code_of
from apq.space.schema import CandidateField, SpaceField

Price = Annotated[float, Field(ge=0)]


class Predicted(Schema):
    """Predicted figures of a candidate.

    Attributes:
        accuracy, accuracy_spread: Fractions; None: not predicted.
    """

    accuracy: float | None = None
    accuracy_spread: float | None = None


class CandidateFile(Sealed):
    """A candidate, and its figures if it was found by a search.

    Attributes:
        candidate: The candidate.
        space: The space it was found in.
        predicted: The predictor's figures.
        costs: Costs by metric, as the search priced them.
        devices: The tables those costs come from.
        made_from: Names and hashes of the search's sources, such as ``supernet``.
    """

    what = "a file with a candidate"
    remedy = "Give the best.json of a search, or the value of its 'candidate' alone."
    error = SpaceError

    candidate: CandidateField
    space: SpaceField | None = None
    predicted: Predicted = Predicted()
    costs: Named[Price] = Field(default_factory=dict)
    devices: Items[Text] = ()
    made_from: Named[Text] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, data: Any) -> Any:
        """Accept a bare candidate as well."""
        if isinstance(data, dict) and "candidate" not in data and {"depth_0", "stages"} & {*data}:
            return {"candidate": data}
        return data


class Block(Schema):
    """A block of the chosen candidate, or (slot "fixed") all layers that are not searched.

    Attributes:
        slot: Name of the slot.
        costs: For each metric, its cost and, as ``METRIC_share``, its share of the whole.
        choices: The block's choices by attribute, from the file's other fields.
    """

    model_config = Schema.model_config | {"extra": "allow"}
    __pydantic_extra__: dict[str, float | int | str] = Field(init=False)

    slot: Text

    @property
    def costs(self) -> dict[str, float]:
        """Costs and shares by name."""
        return {k: float(v) for k, v in self.__pydantic_extra__.items() if self._is_cost(k)}

    @property
    def choices(self) -> dict[str, Choice]:
        """Choices by attribute: numbers, and formats in their readable form."""
        chosen = {k: v for k, v in self.__pydantic_extra__.items() if not self._is_cost(k)}
        return {k: v if isinstance(v, str) else int(v) for k, v in chosen.items()}

    @property
    def formats(self) -> dict[str, Choice]:
        """The number formats among the choices."""
        return {k: v for k, v in self.choices.items() if is_format(k)}

    @property
    def architecture(self) -> dict[str, Choice]:
        """The other choices."""
        return {k: v for k, v in self.choices.items() if not is_format(k)}

    def _is_cost(self, name: str) -> bool:
        return name.endswith("_share") or f"{name}_share" in self.__pydantic_extra__

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for name, value in self.__pydantic_extra__.items():
            if self._is_cost(name) and isinstance(value, str):
                raise ValueError(f"{name} is {value!r}, must be a number")
            if is_format(name):
                try:
                    code_of(value)  # type: ignore[arg-type]
                except SpaceError as error:
                    raise ValueError(f"{name}: {error}") from error
        return self


class Point(Schema):
    """A point of a search's curve, as :class:`apq.search.record.Point`."""

    candidates: Count
    accuracy: float | None
    hypervolume: float | None


class Score(Schema):
    """The numbers of a score, as :class:`apq.search.problem.Forgiving`."""

    metric: Text
    reference: float
    smaller: float
    larger: float
    rate: float
    stress: float


class How(Document):
    """Settings and course of a search.

    Attributes:
        algorithm, seed, candidates: The algorithm, its seed and number of candidates.
        objectives: Names of the objectives.
        fix: Restrictions of genes, as in ``--fix``.
        caution: k in accuracy = mean - k · spread.
        score: Definition of the objective ``score`` (:class:`apq.search.problem.Forgiving`).
        curve: Best accuracy and hypervolume over the candidates scored.
        cost: Cost of the search itself.
    """

    what = "a search's notes"

    algorithm: Text
    seed: int
    candidates: Count
    objectives: Items[Text]
    fix: Items[Text] = ()
    caution: float = 0.0
    score: Score | None = None
    curve: Items[Point]
    cost: CostTable | None = None


class Baseline(Document):
    """A baseline with the effort of the search: its best candidate within the limits.

    Attributes:
        about: Description of the baseline.
        accuracy, accuracy_spread: Predictions, fractions.
        costs: Costs by metric.
        candidates: Number of candidates scored to find it.
        front: A thinned front: accuracy and costs, lists of equal length.
    """

    what = "a baseline of a search"

    about: Text = ""
    accuracy: float
    accuracy_spread: float | None = None
    costs: Named[Price] = Field(default_factory=dict)
    candidates: Count | None = None
    front: Named[Items[float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _even(self) -> Self:
        if len({len(column) for column in self.front.values()}) > 1:
            raise ValueError("the columns of its front have different lengths")
        return self


class Best(CandidateFile):
    """The contents of ``best.json``.

    Attributes:
        apq: Version of apq that wrote it.
        command: The command line, if a command wrote it.
        versions: Versions of the packages that its figures depend on, by name.
        limits: Largest cost (smallest accuracy) by name.
        baselines: Baselines by name; None: no such network is within the limits.
        blocks: The candidate's blocks, in network order.
        search: Settings and course of the search.
        made_from: Names and hashes of all sources.
    """

    what = "the best.json of a run as apq search writes it"
    remedy = "Search again, or take another copy."

    apq: Text
    command: Text | None = None
    versions: Named[Text] = Field(default_factory=dict)
    space: SpaceField
    predicted: Predicted
    limits: Named[float]
    baselines: Named[Baseline | None] = Field(default_factory=dict)
    blocks: Annotated[Items[Block], Field(min_length=1)]
    search: How
    made_from: Named[Text]


def read_best(path: Path) -> Best:
    """Read the ``best.json`` of a run.

    Raises:
        SpaceError: it is missing or not a ``best.json``.
    """
    return read_json(
        path,
        Best,
        f"{path.parent} holds no run: {path.name} is missing. "
        f"Make one: apq search --latency-ms 0.5 --out {path.parent}",
    )


def read_candidate(path: Path) -> CandidateFile:
    """Read ``best.json`` of a search, or a JSON file that is or contains a candidate.

    Raises:
        SpaceError: it is missing, not JSON, or contains no candidate.
    """
    return read_json(
        path,
        CandidateFile,
        f"no candidate at {path}. Search one: apq search --latency-ms 0.5 --out {path.parent}",
    )
