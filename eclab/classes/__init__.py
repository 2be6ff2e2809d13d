"""The group of rescalings: moving along a class, telling classes apart, and their dimension."""

from eclab.classes.balance import balanced_scales
from eclab.classes.certificate import Certificate, same_class
from eclab.classes.change import FunctionChange, function_change
from eclab.classes.group import apply_scales_, random_rescale_, rescale_, start_skeleton_

__all__ = [
    "Certificate",
    "FunctionChange",
    "apply_scales_",
    "balanced_scales",
    "function_change",
    "random_rescale_",
    "rescale_",
    "same_class",
    "start_skeleton_",
]
