"""Named data sets, and own data, as tensors."""

from eclab.data.catalog import as_dataset, available, load, names
from eclab.data.dataset import Dataset, wrap
from eclab.data.presets import Preset, presets

__all__ = ["Dataset", "Preset", "as_dataset", "available", "load", "names", "presets", "wrap"]
