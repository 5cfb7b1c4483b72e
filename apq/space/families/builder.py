"""Writes a graph node by node, together with the genes its nodes read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from apq.space.axes import Axis, SearchedStage, Slot
from apq.space.graph import JOINS, Graph, Node, Value, parts


class Builder:
    """A graph under construction.

    A family calls :meth:`image` first, then adds nodes in the order they run. Every method that
    adds a node returns its name, for the nodes that read it. Inside :meth:`block` nodes and genes
    belong to that block.

    Args:
        weight, activation: Formats of layers that name none, as bits.
        epsilon: Epsilon of batch norms.

    Example:
        >>> net = Builder()
        >>> x = net.image(3, 32)
        >>> stage = net.stage((1, 2))
        >>> for position in range(2):
        ...     with net.block(stage, position) as name:
        ...         width = net.gene("width", (8, 16))
        ...         y = net.conv(f"{name}.wide", x, width, kernel=3, act="relu")
        ...         y = net.conv(f"{name}.narrow", y, 3)
        ...         x = net.add(f"{name}.add", x, y)
        >>> [axis.name for axis in net.axes]
        ['depth_0', 'b00_width', 'b01_width']
    """

    def __init__(self, weight: int = 8, activation: int = 8, epsilon: float = 1e-5) -> None:
        self.weight, self.activation, self.epsilon = weight, activation, epsilon
        self.nodes: dict[str, Node] = {}
        self.slots: list[Slot] = []
        self._depths: list[tuple[int, ...]] = []
        self._shared: list[Axis] = []
        self._open: Slot | None = None

    # ---- genes -----------------------------------------------------------------------------

    def stage(self, depth: Sequence[int]) -> int:
        """A run of blocks of which a gene keeps the leading ones; ``depth`` are its choices."""
        self._depths.append(tuple(depth))
        return len(self._depths) - 1

    def gene(self, attribute: str, choices: Sequence[int]) -> str:
        """A gene, of the block if one is open; returns its name. Formats are given as codes."""
        if self._open is None:
            self._shared.append(Axis(attribute, attribute, tuple(choices)))
            return attribute
        slot = replace(
            self._open,
            attributes=(*self._open.attributes, attribute),
            choices=(*self._open.choices, tuple(choices)),
        )
        self._open = self.slots[-1] = slot
        return slot.genes[-1]

    @contextmanager
    def block(self, stage: int, position: int) -> Iterator[str]:
        """The next slot, at a position of a stage; gives its path, ``blocks.3``."""
        yield f"blocks.{self.open(stage, position).index}"
        self.close()

    def open(self, stage: int, position: int) -> Slot:
        """Begin the next slot; nodes and genes that follow belong to it."""
        self._open = Slot(len(self.slots), stage, position)
        self.slots.append(self._open)
        return self._open

    def close(self) -> None:
        """End the slot; what follows belongs to none."""
        self._open = None

    # ---- nodes -----------------------------------------------------------------------------

    def node(self, name: str, op: str, *inputs: str, channels: Value, **fields: Any) -> str:
        """A node of any kind; fields as :class:`~apq.space.graph.Node` has them."""
        when = fields.pop("when", ())
        slot = self._open
        if slot is not None:
            depths = self._depths[slot.stage]
            longer = tuple(depth for depth in depths if depth > slot.position)
            gate = () if longer == depths or op in JOINS else ((f"depth_{slot.stage}", longer),)
            when, fields["block"] = (*gate, *when), slot.name
        self.nodes[name] = Node(name, op, inputs, channels, when=when, **fields)
        return name

    def image(self, channels: int, side: int | Sequence[int]) -> str:
        """The input; ``side`` in pixels. Several: the gene ``resolution`` chooses one of them."""
        chosen = side if isinstance(side, int) else self.gene("resolution", side)
        return self.node("image", "image", channels=channels, side=chosen)

    def conv(self, name: str, x: str, channels: Value, **fields: Any) -> str:
        """A convolution with batch norm; of every channel alone if ``groups`` are as many."""
        fields = {"epsilon": self.epsilon} | self._formats(fields)
        return self.node(name, "conv", x, channels=channels, **fields)

    def linear(self, name: str, x: str, channels: Value, **fields: Any) -> str:
        """A fully connected layer on the output of :meth:`pool`."""
        return self.node(name, "linear", x, channels=channels, **self._formats(fields))

    def add(self, name: str, *inputs: str, act: str = "") -> str:
        """The sum of those inputs that run."""
        return self.node(name, "add", *inputs, channels=self.channels(inputs[0]), act=act)

    def concat(self, name: str, *inputs: str) -> str:
        """The channels of all inputs, one after the other."""
        channels = tuple(part for x in inputs for part in parts(self.channels(x)))
        return self.node(name, "concat", *inputs, channels=channels)

    def select(self, name: str, *inputs: str) -> str:
        """The last input that runs."""
        return self.node(name, "select", *inputs, channels=self.channels(inputs[0]))

    def pool(self, name: str, x: str) -> str:
        """The mean over all pixels."""
        return self.node(name, "pool", x, channels=self.channels(x))

    def maxpool(self, name: str, x: str, kernel: int, stride: int) -> str:
        """Max pooling."""
        size: dict[str, Any] = {"kernel": kernel, "stride": stride}
        return self.node(name, "maxpool", x, channels=self.channels(x), **size)

    def act(self, name: str, x: str, act: str) -> str:
        """``hswish`` or ``hsigmoid`` of a tensor."""
        return self.node(name, "act", x, channels=self.channels(x), act=act)

    def scale(self, name: str, x: str, factor: str) -> str:
        """Every channel of ``x`` times the value that ``factor`` has for it, from 0 to 1."""
        return self.node(name, "scale", x, factor, channels=self.channels(x))

    def channels(self, name: str) -> Value:
        """Channels of a node's output."""
        return self.nodes[name].channels

    def _formats(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"weight": self.weight, "activation": self.activation} | fields

    # ---- result ----------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """The graph so far."""
        return Graph(tuple(self.nodes.values()))

    @property
    def stages(self) -> tuple[SearchedStage, ...]:
        """The stages, with the slots of each."""
        return tuple(
            SearchedStage(depth, tuple(slot.index for slot in self.slots if slot.stage == s))
            for s, depth in enumerate(self._depths)
        )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The genes: depths, then those of several blocks, then slot by slot."""
        depths = [Axis(f"depth_{s}", "depth", depth) for s, depth in enumerate(self._depths)]
        own = [
            Axis(name, attribute, choices, slot.index)
            for slot in self.slots
            for name, attribute, choices in zip(
                slot.genes, slot.attributes, slot.choices, strict=True
            )
        ]
        return (*depths, *self._shared, *own)
