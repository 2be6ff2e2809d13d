"""Optimizers in class space, and the slow reference they are compared with."""

from eclab.optim.clip import clip_class_grad_norm_
from eclab.optim.ec import EC
from eclab.optim.ecsgd import ECSGD

__all__ = ["EC", "ECSGD", "clip_class_grad_norm_"]
