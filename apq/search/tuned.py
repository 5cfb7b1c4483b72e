"""The header of a fine-tuned model file: the candidate, measured and predicted figures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from apq.files import Schema
from apq.files.headers import Header
from apq.files.reading import CostTable, Count, Fraction, Items, Named, Text
from apq.search.best import Price
from apq.space.schema import CandidateField, SpaceField


class Accuracy(Schema):
    """Accuracies of a fine-tuned candidate, see :class:`apq.deploy.finetune.FinetuneReport`."""

    before: Fraction
    epochs: Items[Fraction]
    best_epoch: Count
    after: Fraction
    test: Fraction
    classes: Named[Fraction] | None = None  # absent in files of earlier versions
    predicted: float | None
    predicted_spread: float | None
    seconds: Annotated[float, Field(ge=0)] | None = None  # only in files of earlier versions
    cost: CostTable | None = None


class Images(Schema):
    """A set of images: its name and digest."""

    name: Text
    digest: Text


class ModelHeader(Header):
    """The header of a model file.

    Attributes:
        space, candidate: The space, and the candidate that was fine-tuned.
        scheme: How it was quantized.
        mean, std: Normalisation of images on the 0..1 scale, per channel.
        classes: Class names by label.
        accuracy: Measured and predicted accuracies.
        costs, devices: Costs as the search priced them, and the tables they come from.
        recipe: Settings of the fine-tuning.
        supernet: Hash of the weights it started from.
        images: Images it was trained and measured on.
    """

    what = "a model as apq finetune writes it"

    kind: Literal["model"]
    hash: Text
    space: SpaceField
    candidate: CandidateField
    scheme: Text
    mean: Items[float]
    std: Items[Annotated[float, Field(gt=0)]]
    classes: Items[Text]
    accuracy: Accuracy | None = None
    costs: Named[Price] = Field(default_factory=dict)
    devices: Items[Text] = ()
    recipe: Named[Any] = Field(default_factory=dict)
    supernet: Text | None = None
    images: Images | None = None
