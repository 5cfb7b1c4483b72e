"""Views of genes and candidates of MobileNetV2-type spaces, whose blocks all choose six things."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apq.space import Candidate, Choice, Genes, Space

ATTRIBUTES = ("kernel", "width", "pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits")


def block_genes(space: Space, genes: Genes) -> np.ndarray:
    """The genes of the blocks as a view, ``(n, slots, 6)``."""
    blocks = genes[:, len(space.stages) :]
    return blocks.reshape(len(genes), len(space.slots), len(ATTRIBUTES))


def with_bits(candidate: Candidate, formats: Callable[[], tuple[Choice, ...]]) -> Candidate:
    """A candidate whose blocks in turn have the four formats that ``formats()`` gives."""
    chosen = {
        f"{block}_{name}": choice
        for block in candidate.blocks
        if block
        for name, choice in zip(ATTRIBUTES[2:], formats(), strict=True)
    }
    return candidate.with_(**chosen)


def blocks_of(candidate: Candidate) -> list[dict[str, Choice]]:
    """The choices of every block that runs, by attribute."""
    return [choices for block, choices in candidate.blocks.items() if block]
