"""Notebooks as programs: parameters that are checked, numbers that are recorded, and a runner without a browser."""

from eclab.notebook.kinds import Choice, Kind, Range, Several, Text, Whole, parameters
from eclab.notebook.records import MIME_TYPE, record, recorded
from eclab.notebook.runner import parameter_names, run

__all__ = [
    "MIME_TYPE",
    "Choice",
    "Kind",
    "Range",
    "Several",
    "Text",
    "Whole",
    "parameter_names",
    "parameters",
    "record",
    "recorded",
    "run",
]
