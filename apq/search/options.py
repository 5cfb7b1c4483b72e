"""Settings of an algorithm besides its number of candidates and seed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from apq.errors import ApqError, choose

KEEP = ("front", "all")


@dataclass(frozen=True)
class Options:
    """Settings of an algorithm; None: the algorithm's default.

    Attributes:
        local_search: Share of the candidates that local search may use, 0 … 0.95.
        warm_start: Whether an additive model draws a first, rough front.
        storage: An Optuna storage: a journal file, ``sqlite:///…`` or ``postgresql://…``. A study
            of the same problem there is continued, and its candidates count as scored.
        keep: Candidates that become trials of the study: ``"front"``, the survivors about once a
            second and the final front; or ``"all"``.

    Raises:
        ApqError: a value is not allowed.
    """

    local_search: float | None = None
    warm_start: bool | None = None
    storage: str | None = None
    keep: str | None = None

    def __post_init__(self) -> None:
        if self.local_search is not None and not 0 <= self.local_search <= 0.95:
            raise ApqError(
                f"the share of local search must lie between 0 and 0.95, got {self.local_search}"
            )
        if self.keep is not None:
            choose(self.keep, KEEP, "--keep")
            if self.storage is None:
                raise ApqError("--keep says what a --storage keeps: give one, or leave it out")

    def given(self) -> list[str]:
        """Names of the settings that are not None."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]
