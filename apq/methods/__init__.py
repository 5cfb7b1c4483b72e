"""Published ways to choose a network, all on one problem: one space, one predictor, one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from apq.errors import choose

if TYPE_CHECKING:
    from apq.methods.book import Book, Outcome
    from apq.search.problem import Problem

CALLS = 2_000
"""How many candidates a method may have scored if nobody says."""


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        path: Module and function; the function takes a :class:`~apq.methods.book.Book`, reads its
            problem, and scores rows through it until its calls are used up or it is done.
        about: What it chooses and how, in a sentence.
        source: Where it was published.
    """

    path: str
    about: str
    source: str

    @property
    def function(self) -> Callable[[Book], None]:
        """The function that runs it."""
        module, _, name = self.path.partition(":")
        found: Callable[[Book], None] = getattr(import_module(f"apq.methods.{module}"), name)
        return found


METHODS: dict[str, Method] = {
    "haq": Method(
        "haq:haq",
        "An agent (DDPG) chooses the formats of a MobileNetV2-shaped network layer by layer; what "
        "is over the limit is lowered from the last layer on.",
        "Wang et al., CVPR 2019",
    ),
    "amc": Method(
        "amc:amc",
        "An agent (DDPG) chooses how many channels every layer of a MobileNetV2-shaped network "
        "keeps, at 8 bits; ratios that could not keep the limit are cut.",
        "He et al., ECCV 2018",
    ),
    "proxylessnas": Method(
        "proxylessnas:proxylessnas",
        "Binary gates on paths and an expected latency from the table choose kernels, widths and "
        "depths at 8 bits.",
        "Cai et al., ICLR 2019",
    ),
    "pipeline": Method(
        "pipeline:pipeline",
        "ProxylessNAS, then AMC, then HAQ, each on the network of the one before.",
        "APQ's baseline, CVPR 2020, Table 2",
    ),
    "dnas": Method(
        "dnas:dnas",
        "Gumbel-softmax over the formats of a MobileNetV2-shaped network; networks drawn from the "
        "distribution are scored.",
        "Wu et al., 2018, arXiv 1812.00090",
    ),
    "singlepath": Method(
        "singlepath:singlepath",
        "Thresholds switch parts of superkernels on: kernels, widths and depths at 8 bits, with an "
        "exact runtime from the table.",
        "Stamoulis et al., 2019, arXiv 1904.02877",
    ),
    "mpnas": Method(
        "mpnas:mpnas",
        "Gumbel-softmax through the accuracy and REINFORCE on the table choose everything "
        "together.",
        "Gong et al., ICCAD 2019",
    ),
    "spos": Method(
        "spos:spos",
        "Evolution with redraws, 25 mutants and 25 crosses of the ten best, nothing scored twice.",
        "Guo et al., ECCV 2020",
    ),
    "hurricane": Method(
        "hurricane:hurricane",
        "Kernels and formats that pay on the device, evolution of the later half of the blocks, "
        "then of the earlier one.",
        "2019, arXiv 1910.11609",
    ),
    "chamnet": Method(
        "chamnet:chamnet",
        "A Gaussian process on a short vector per network, 240 samples chosen in rounds, evolution "
        "on the process.",
        "Dai et al., CVPR 2019",
    ),
    "autoqkeras": Method(
        "autoqkeras:autoqkeras",
        "TPE chooses formats and filters of a MobileNetV2-shaped network, block by block in order "
        "of energy, by a forgiving score.",
        "Coelho et al., 2020, arXiv 2006.10159",
    ),
    "autoqkeras-random": Method(
        "autoqkeras:autoqkeras_random",
        "The same with random trials in the place of TPE's.",
        "Coelho et al., 2020, arXiv 2006.10159",
    ),
    "lana": Method(
        "lana:lana",
        "A table of what every replacement of a block loses alone, an integer program, and fifty "
        "solutions that differ.",
        "Molchanov et al., ECCV 2022",
    ),
}
"""By name."""


def run_method(name: str, problem: Problem, calls: int = CALLS, seed: int = 0) -> Outcome:
    """Let a method choose a network.

    Args:
        name: A name in :data:`METHODS`.
        problem: The space, its prices, the limits and the predictor; it is the first objective
            that counts.
        calls: How many candidates the predictor may score for it.
        seed: Decides everything random.

    Returns:
        The best candidate within the limits that the method scored, and what that took.

    Raises:
        ApqError: there is no such method, or it finds nothing within the limits.

    Example:
        >>> import apq
        >>> from apq.methods import run_method
        >>> from apq.search.problem import Problem
        >>> space = apq.load_space("digits").restrict("bits=4,8")
        >>> priced = apq.price_space(space, apq.load_cost_model("roofline"))
        >>> predictor = apq.load_predictor("digits/predictor.safetensors")
        >>> low, high = priced.reach("latency_ms")
        >>> problem = Problem(priced, predictor.predict, limits={"latency_ms": (low + high) / 2})
        >>> found = run_method("spos", problem, calls=200)
        >>> found.predictor_calls <= 200
        True
    """
    from apq.methods.book import Book

    method = METHODS[choose(name, METHODS, "method")]
    book = Book(problem, calls, seed)
    method.function(book)
    return book.outcome()
