"""Measures that no rescaling can change: basis-path norm, sharpness, landscape, and what the choice of a chart does."""

from eclab.measures.norm import basis_path_norm

__all__ = ["basis_path_norm"]
