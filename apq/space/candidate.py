"""A candidate: one subnet, described by the choices of the parts that run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from apq.errors import SpaceError
from apq.files.limits import MOST_CHANNELS, MOST_ITEMS
from apq.space.axes import is_format
from apq.space.formats import Choice, choice_of, code_of


@dataclass(frozen=True)
class Candidate:
    """A subnet: the choice of every gene that has an effect in it.

    Genes of skipped blocks are absent, so equal candidates are equal subnets.

    Attributes:
        choices: Names of genes and their choices, in the order of the space's axes; formats in
            their readable form (``8``, ``"ternary"``).

    Example:
        >>> candidate = Candidate.of({"depth_0": 1, "b00_kernel": 3, "b00_pw_w_bits": 4})
        >>> candidate["b00_kernel"]
        3
        >>> print(candidate)
        b00 k3 b4
    """

    choices: tuple[tuple[str, Choice], ...]

    @classmethod
    def of(cls, choices: Mapping[str, Choice]) -> Candidate:
        """From choices by name."""
        return cls(tuple(choices.items()))

    @cached_property
    def by_name(self) -> dict[str, Choice]:
        """Choices by name of the gene."""
        return dict(self.choices)

    def __getitem__(self, name: str) -> Choice:
        return self.by_name[name]

    def with_(self, **choices: Choice) -> Candidate:
        """A copy with other choices for some genes."""
        return Candidate.of(self.by_name | choices)

    @cached_property
    def blocks(self) -> dict[str, dict[str, Choice]]:
        """Choices by attribute of every block that runs (``b03``); ``""``: genes of no block."""
        found: dict[str, dict[str, Choice]] = {}
        for name, choice in self.choices:
            block, attribute = re.fullmatch(r"(?:(b\d+)_)?(.+)", name, re.DOTALL).groups()  # type: ignore[union-attr]
            found.setdefault(block or "", {})[attribute] = choice
        return found

    def to_dict(self) -> dict[str, Choice]:
        """Plain data for JSON."""
        return dict(self.choices)

    @classmethod
    def from_dict(cls, data: Any) -> Candidate:
        """Inverse of :meth:`to_dict`.

        Raises:
            SpaceError: the data does not describe a candidate.
        """
        if not isinstance(data, Mapping):
            raise SpaceError(f"the candidate is {str(data)[:60]!r}, must be a table")
        if len(data) > MOST_ITEMS:
            raise SpaceError(f"the candidate has {len(data):,} genes, at most {MOST_ITEMS:,}")
        if "stages" in data:
            raise SpaceError(
                "the candidate is of an older version of apq, which listed blocks by stage; make "
                "it again with the command that made it"
            )
        choices: dict[str, Choice] = {}
        for name, value in data.items():
            number = isinstance(value, int) and not isinstance(value, bool)
            if is_format(name):
                try:
                    choices[name] = choice_of(code_of(value))
                except SpaceError as error:
                    raise SpaceError(f"{str(name)[:60]}: {error}") from error
            elif number and 0 <= value <= MOST_CHANNELS:
                choices[name] = value
            else:
                told = str(value) if not isinstance(value, str) else repr(value)
                raise SpaceError(
                    f"{name[:60]} is {told[:60]}, must be a whole number from 0 to {MOST_CHANNELS}"
                )
        return cls.of(choices)

    def __str__(self) -> str:
        """One line with the choices of each block, e.g. ``b00 k3 w16 b8/8/ternary/4``; ``b`` lists
        the formats in the order of the genes."""
        words = []
        for block, choices in self.blocks.items():
            formats = [str(c) for a, c in choices.items() if is_format(a)]
            others = [
                f"{_SHORT.get(a, f'{a}=')}{c}"
                for a, c in choices.items()
                if not (is_format(a) or a.startswith("depth_"))
            ]
            told = [
                *filter(None, [block]),
                *others,
                *(["b" + "/".join(formats)] if formats else []),
            ]
            words.append(" ".join(told))
        return " | ".join(filter(None, words))


_SHORT = {"kernel": "k", "width": "w"}
