"""One network that holds all candidates of a space, and the subnets cut out of it (torch)."""

from apq.supernet.files import SupernetFile, load_supernet, save_supernet
from apq.supernet.network import Subnet
from apq.supernet.supernet import Supernet, largest, smallest

__all__ = [
    "Subnet",
    "Supernet",
    "SupernetFile",
    "largest",
    "load_supernet",
    "save_supernet",
    "smallest",
]
