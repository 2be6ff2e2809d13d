"""Measures that no rescaling can change: basis-path norm, sharpness, landscape, and what the choice of a chart does."""

from eclab.measures.norm import basis_path_norm
from eclab.measures.sharpness import Sharpness, sharpness

__all__ = ["Sharpness", "basis_path_norm", "sharpness"]
