"""Families of networks: functions that write the graph of a space."""

from apq.space.families.mobilenet_v2 import mobilenet_v2, whole_block

__all__ = ["mobilenet_v2", "whole_block"]
