"""Header of a predictor's file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from apq.errors import ModelError
from apq.files import Document, Schema
from apq.files.reading import Count, Fraction, Items, Named, Text
from apq.predictor.columns import ColumnsTable
from apq.samples import QuantizationTable
from apq.space.schema import SpaceField

_Positive = Annotated[float, Field(gt=0)]


class SpaceFeaturesTable(Schema):
    """Features of genes, as ``SpaceFeatures``."""

    kind: Literal["space"]
    smooth: bool
    space: SpaceField


class TableFeaturesTable(Schema):
    """Features of a table's rows, as ``TableFeatures``."""

    kind: Literal["table"]
    smooth: bool
    columns: ColumnsTable
    values: Named[Annotated[Items[float], Field(min_length=1)]]


class NetworkTable(Schema):
    """The numbers of a ``Network`` that are no tensors."""

    kind: Literal["network"]
    members: Annotated[int, Field(ge=1, le=1024)]
    hidden: Annotated[int, Field(ge=1, le=65_536)]
    floor: Annotated[float, Field(ge=0)]


class ProcessTable(Schema):
    """The numbers of a ``GaussianProcess`` that are no tensors."""

    kind: Literal["kernel"]
    amplitude: _Positive
    square: Annotated[float, Field(ge=0)]
    noise: _Positive


class Origin(Document):
    """The part of a predictor's report about its samples.

    Attributes:
        original_accuracy: Measured full-precision accuracy of the whole network.
        corrected: Whether subnets were refitted after cutting.
        quantization: How the quantized ones were made; None: there were none.
    """

    what = "the report of a predictor"
    error = ModelError

    original_accuracy: Fraction | None = None
    corrected: bool = False
    quantization: QuantizationTable | None = None


class FormatOnly(Document):
    """Header fields that every format version has.

    Attributes:
        format: Version of the layout.
        apq: Version of apq that wrote it.
    """

    what = "a predictor as apq train-predictor writes it"
    remedy = "Train it again: apq train-predictor."
    error = ModelError

    format: Count
    apq: Text


class PredictorHeader(FormatOnly):
    """The complete header of a predictor's file.

    Attributes:
        features: Its input features.
        models: One or two.
        warp: Ceiling (null: none), mean and deviation of the targets.
        bits: Whether the last model sees bit columns.
        calibration: Factor on the spread.
        report: Errors, settings and provenance.
        fingerprint: Fingerprint of the space.
        hash: Hash of everything else and the tensors.
    """

    features: Annotated[SpaceFeaturesTable | TableFeaturesTable, Field(discriminator="kind")]
    models: Annotated[
        Items[Annotated[NetworkTable | ProcessTable, Field(discriminator="kind")]],
        Field(min_length=1, max_length=2),
    ]
    warp: Annotated[tuple[float | None, float, _Positive], Field(strict=False)]
    bits: bool
    calibration: Annotated[float, Field(ge=0)]
    report: Named[Any]
    fingerprint: Text | None = None
    hash: Text
