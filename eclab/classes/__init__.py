"""The group of rescalings: moving along a class, telling classes apart, and their dimension."""

from eclab.classes.balance import balance_, balanced_scales
from eclab.classes.certificate import Certificate, same_class
from eclab.classes.change import FunctionChange, function_change
from eclab.classes.condition import condition_
from eclab.classes.extremes import extremal_
from eclab.classes.group import apply_scales_, random_rescale_, rescale_, start_skeleton_
from eclab.classes.moves import Move
from eclab.classes.walk import Walk, canonicalize_, walk_

__all__ = [
    "Certificate",
    "FunctionChange",
    "Move",
    "Walk",
    "apply_scales_",
    "balance_",
    "balanced_scales",
    "canonicalize_",
    "condition_",
    "extremal_",
    "function_change",
    "random_rescale_",
    "rescale_",
    "same_class",
    "start_skeleton_",
    "walk_",
]
