"""A model as a list of operations on tensors, read with ``torch.export``; plain data that can be copied and pickled."""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from eclab.errors import TraceError


@dataclass(frozen=True)
class Ref:
    """Stands in an operation's arguments for the value of the operation with this number."""

    index: int


@dataclass(frozen=True)
class Op:
    """One operation of a model.

    Attributes:
        kind: ``"input"``, ``"parameter"``, ``"buffer"``, ``"constant"``, ``"call"`` or ``"output"``.
        target: the operation's name (``"aten.conv2d.default"``), or the name of the parameter, buffer or input.
        args, kwargs: its arguments, other operations' values as :class:`Ref`; of a constant, its value.
        shape: the shape of its value; empty where that is no tensor.
        module: path of the module it came from, for messages.
        parts: the shapes of its values, one for every tensor it returns; empty where it returns none.
    """

    kind: str
    target: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, ...] = ()
    module: str = ""
    parts: tuple[tuple[int, ...], ...] = ()

    @property
    def name(self) -> str:
        """``"aten.relu"`` for ``aten.relu.default`` and its in-place form ``aten.relu_.default``."""
        return ".".join(self.target.split(".")[:2]).rstrip("_")

    def refs(self) -> list[int]:
        """Numbers of the operations whose values this one reads."""
        found: list[int] = []
        _walk((self.args, tuple(value for _, value in self.kwargs)), found)
        return found


def _walk(value: Any, found: list[int]) -> None:
    if isinstance(value, Ref):
        found.append(value.index)
    elif isinstance(value, tuple | list):
        for item in value:
            _walk(item, found)


def resolve(target: str) -> Callable[..., Any]:
    """The callable behind an operation's name."""
    if target.startswith("operator."):
        function: Callable[..., Any] = getattr(operator, target.removeprefix("operator."))
        return function
    namespace, packet, overload = target.split(".")
    found: Callable[..., Any] = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    return found


def inputs_of(x: Any) -> tuple[Tensor, ...]:
    """The model's inputs as a tuple of tensors, or a :class:`TraceError`."""
    inputs = x if isinstance(x, tuple | list) else (x,)
    if not inputs or not all(isinstance(item, Tensor) for item in inputs):
        raise TraceError(
            f"the example input is {type(x).__name__}",
            allowed="a tensor with a batch axis, or a tuple of such tensors",
            fix="pass a few samples as the model would get them",
        )
    for item in inputs:
        if item.ndim == 0 or 0 in item.shape:
            raise TraceError(
                f"the example input has shape {tuple(item.shape)}",
                allowed="at least one sample along the first axis",
                fix="pass a few samples as the model would get them",
            )
    return tuple(inputs)


def read_graph(model: nn.Module, x: Any, *, samples: int = 2) -> list[Op]:
    """The operations of ``model`` on ``x`` in the order they run.

    Args:
        model: any module that ``torch.export`` can read.
        x: example input with a batch axis, or a tuple of inputs.
        samples: how many are used at most; two are enough.

    Raises:
        TraceError: ``x`` does not fit the model, or the model cannot be exported.
    """
    few = tuple(item[:samples].detach() for item in inputs_of(x))
    try:
        with _as_it_trains(model), _unlogged(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they speak of exported programs, and this one is only read
            program = torch.export.export(model, few, strict=False)
            if _writes_into_a_view(program.graph):
                program = program.run_decompositions({})
    except Exception as error:  # noqa: BLE001 - torch.export raises whatever the model raises, under its own frames
        raise _refusal(model, few, error) from None
    return _operations(program, _first_names(model))


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keeps torch from writing a traceback of its own beside the one error that says it all."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def _as_it_trains(model: nn.Module) -> Iterator[None]:
    """Keeps the model from taking another way because it is being read.

    The fused encoder layer of evaluation mode hides what it consists of. Counting batches changes no value, but a
    cumulative average of statistics would read the count, on which no graph may depend.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    counts = [(module, module._buffers.get("num_batches_tracked")) for module in norms]
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module, count in counts:
            if count is not None:
                module._buffers["num_batches_tracked"] = None
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, count in counts:
            if count is not None:
                module._buffers["num_batches_tracked"] = count


def _writes_into_a_view(graph: torch.fx.Graph) -> bool:
    """Whether some operation in place changes a value that is read later under another name."""
    place = {node: number for number, node in enumerate(graph.nodes)}
    base: dict[Any, Any] = {}
    alias: dict[Any, list[Any]] = {}
    for node in graph.nodes:
        returns = _returned_alias(node)
        origin = base.get(node.args[0], node.args[0]) if returns is not None else node
        base[node] = origin
        family = alias.setdefault(origin, [])
        if returns and origin.op != "placeholder":
            others = [member for member in family if any(place[user] > place[node] for user in member.users)]
            if others:
                return True
        family.append(node)
    return False


def _returned_alias(node: Any) -> bool | None:
    """None where an operation returns memory of its own; else whether it writes into its first argument."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.returns or not node.args or not isinstance(node.args[0], torch.fx.Node):
        return None
    information = schema.returns[0].alias_info
    return None if information is None else bool(information.is_write)


def _refusal(model: nn.Module, few: tuple[Tensor, ...], error: Exception) -> TraceError:
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    path = _failing_module(model, error)
    where = f" at '{path}'" if path else ""
    shapes = ", ".join(str(tuple(item.shape)) for item in few)
    return TraceError(
        f"{type(model).__name__} cannot be read{where} on an input of shape {shapes}: {words}",
        allowed="an nn.Module without data-dependent control flow, and an input of the shape it expects",
        fix="run model(x) first; what runs there and not here is a case for torch.export's documentation",
    )


def _failing_module(model: nn.Module, error: BaseException) -> str:
    """The path of the innermost module whose code was running when the error was raised; empty for the model itself."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        raised = waiting.pop()
        if raised is None or id(raised) in seen:
            continue
        seen.add(id(raised))
        frame = raised.__traceback__
        while frame is not None:
            path = names.get(id(frame.tb_frame.f_locals.get("self")), "")
            found = path if len(path) > len(found) else found
            frame = frame.tb_next
        waiting += [raised.__cause__, raised.__context__]
    return found


def _first_names(model: nn.Module) -> dict[str, str]:
    """Per parameter name the first one of the same tensor: layers that share a weight then share its name."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}


def _operations(program: Any, names: dict[str, str]) -> list[Op]:
    signature = program.graph_signature
    kinds: dict[str, tuple[str, str]] = {}
    kinds |= {name: ("parameter", names[target]) for name, target in signature.inputs_to_parameters.items()}
    kinds |= {name: ("buffer", target) for name, target in signature.inputs_to_buffers.items()}
    kinds |= {name: ("constant", target) for name, target in signature.inputs_to_lifted_tensor_constants.items()}
    user_outputs = set(signature.user_outputs)
    numbers: dict[Any, int] = {}
    operations: list[Op] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            kind, target = kinds.get(node.name, ("input", node.name))
            value = (program.constants[target],) if kind == "constant" else ()
            operation = Op(kind, target, value, shape=_shape(node), parts=_parts(node))
        elif node.op == "output":
            outputs = tuple(Ref(numbers[arg]) for arg in node.args[0] if getattr(arg, "name", None) in user_outputs)
            operation = Op("output", "output", args=outputs)
        else:
            operation = Op(
                "call",
                _target_name(node.target),
                args=_plain(node.args, numbers),
                kwargs=tuple((key, _plain(value, numbers)) for key, value in node.kwargs.items()),
                shape=_shape(node),
                module=_module(node),
                parts=_parts(node),
            )
        numbers[node] = len(operations)
        operations.append(operation)
    return operations


def _target_name(target: Any) -> str:
    if getattr(target, "__module__", "") == "_operator":
        return f"operator.{target.__name__}"
    return str(target)


def _plain(value: Any, numbers: dict[Any, int]) -> Any:
    if isinstance(value, torch.fx.Node):
        return Ref(numbers[value])
    if isinstance(value, tuple | list):
        return tuple(_plain(item, numbers) for item in value)
    return value


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def _parts(node: Any) -> tuple[tuple[int, ...], ...]:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    return tuple(tuple(map(int, part.shape)) for part in values if isinstance(part, Tensor))


def _module(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1] if paths else ""
