"""Reads what ``torch.export`` gives: which node every operation is, and whose channels it carries.

Channels that an operation ties together are one group (union-find, as in DepGraph, Fang et al.,
CVPR 2023; the rules per operation are ours). Every tensor is followed with the dimension that holds
its channels and how these are made up. What an operation does to channels is either known, or the
groups it reads are kept at full width and the user's line and the reason are noted: then the
operation runs as torch runs it, and nothing can be cut wrongly.
"""

from apq.supernet.exported.groups import parts_of as parts_of
from apq.supernet.exported.reader import Reader as Reader
