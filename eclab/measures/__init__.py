"""Measures that no rescaling can change: basis-path norm, sharpness, landscape, and what the choice of a chart does."""

from eclab.measures.landscape import Landscape, landscape
from eclab.measures.norm import basis_path_norm
from eclab.measures.sensitivity import ChartSensitivity, chart_sensitivity
from eclab.measures.sharpness import Sharpness, sharpness

__all__ = [
    "ChartSensitivity",
    "Landscape",
    "Sharpness",
    "basis_path_norm",
    "chart_sensitivity",
    "landscape",
    "sharpness",
]
