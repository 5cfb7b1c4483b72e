"""How far a found network can be from the best one that the predictor and the limits allow."""

from apq.bound.branch import Bound, upper_bound

__all__ = ["Bound", "upper_bound"]
