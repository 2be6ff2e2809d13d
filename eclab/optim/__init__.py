"""Optimizers in class space, and the slow reference they are compared with."""

from eclab.optim.clip import clip_class_grad_norm_
from eclab.optim.ec import EC
from eclab.optim.ecsgd import ECSGD
from eclab.optim.enormsgd import ENormSGD
from eclab.optim.pathsgd import PathSGD

__all__ = ["EC", "ECSGD", "ENormSGD", "PathSGD", "clip_class_grad_norm_"]
