"""Train ReLU networks in their equivalent class space.

Two networks that differ by positive rescalings of hidden units compute the same function: they are one class. eclab
reads a network, shows its classes and paths, and trains it on the classes instead of on the weights.

Every public name is loaded at its first use, so that ``import eclab`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eclab import data, kernels, notebook
    from eclab.classes import (
        Certificate,
        FunctionChange,
        Move,
        Walk,
        apply_scales_,
        balance_,
        canonicalize_,
        condition_,
        extremal_,
        function_change,
        random_rescale_,
        rescale_,
        same_class,
        start_skeleton_,
        walk_,
    )
    from eclab.errors import (
        ChartError,
        CheckpointError,
        DataError,
        EclabError,
        NonFiniteError,
        ScaleError,
        SettingError,
        SpecError,
        TraceError,
    )
    from eclab.facade import Network, trace
    from eclab.measures import (
        ChartSensitivity,
        Landscape,
        Sharpness,
        basis_path_norm,
        chart_sensitivity,
        landscape,
        sharpness,
    )
    from eclab.network.rules import register_rule, remove_rule
    from eclab.network.spec import NetworkSpec
    from eclab.notebook import parameters, record
    from eclab.optim import EC, ECSGD, ENormSGD, PathSGD, clip_class_grad_norm_
    from eclab.paths.chart import Chart
    from eclab.race import Race, Result
    from eclab.widgets import Lab

__version__ = "0.1.0"

_PUBLIC = {
    "eclab.classes": (
        "Certificate",
        "FunctionChange",
        "Move",
        "Walk",
        "apply_scales_",
        "balance_",
        "canonicalize_",
        "condition_",
        "extremal_",
        "function_change",
        "random_rescale_",
        "rescale_",
        "same_class",
        "start_skeleton_",
        "walk_",
    ),
    "eclab.errors": (
        "ChartError",
        "CheckpointError",
        "DataError",
        "EclabError",
        "NonFiniteError",
        "ScaleError",
        "SettingError",
        "SpecError",
        "TraceError",
    ),
    "eclab.facade": ("Network", "trace"),
    "eclab.measures": (
        "ChartSensitivity",
        "Landscape",
        "Sharpness",
        "basis_path_norm",
        "chart_sensitivity",
        "landscape",
        "sharpness",
    ),
    "eclab.network.rules": ("register_rule", "remove_rule"),
    "eclab.network.spec": ("NetworkSpec",),
    "eclab.notebook": ("parameters", "record"),
    "eclab.optim": (
        "EC",
        "ECSGD",
        "ENormSGD",
        "PathSGD",
        "clip_class_grad_norm_",
    ),
    "eclab.paths.chart": ("Chart",),
    "eclab.race": ("Race", "Result"),
    "eclab.widgets": ("Lab",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
_MODULES = frozenset({"data", "kernels", "notebook"})

__all__ = [
    "EC",
    "ECSGD",
    "Certificate",
    "Chart",
    "ChartError",
    "ChartSensitivity",
    "CheckpointError",
    "DataError",
    "ENormSGD",
    "EclabError",
    "FunctionChange",
    "Lab",
    "Landscape",
    "Move",
    "Network",
    "NetworkSpec",
    "NonFiniteError",
    "PathSGD",
    "Race",
    "Result",
    "ScaleError",
    "SettingError",
    "Sharpness",
    "SpecError",
    "TraceError",
    "Walk",
    "__version__",
    "apply_scales_",
    "balance_",
    "basis_path_norm",
    "canonicalize_",
    "chart_sensitivity",
    "clip_class_grad_norm_",
    "condition_",
    "data",
    "extremal_",
    "function_change",
    "kernels",
    "landscape",
    "notebook",
    "parameters",
    "random_rescale_",
    "record",
    "register_rule",
    "remove_rule",
    "rescale_",
    "same_class",
    "sharpness",
    "start_skeleton_",
    "trace",
    "walk_",
]


if not TYPE_CHECKING:  # a type checker that saw it would let every misspelt name pass

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return importlib.import_module(f"eclab.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'eclab' has no attribute {name!r}; its public names are {', '.join(__all__)}")
        value: object = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
