"""One network that holds all candidates of a space, and the subnets cut out of it (torch)."""

from apq.supernet.network import (
    Subnet,
    Supernet,
    SupernetFile,
    largest,
    load_supernet,
    save_supernet,
    smallest,
)

__all__ = [
    "Subnet",
    "Supernet",
    "SupernetFile",
    "largest",
    "load_supernet",
    "save_supernet",
    "smallest",
]
