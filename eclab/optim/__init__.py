"""Optimizers in class space, and the slow reference they are compared with."""

from eclab.optim.ecsgd import ECSGD

__all__ = ["ECSGD"]
