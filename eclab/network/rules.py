"""The table of rules, one for each operation, and the way for users to add their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eclab.errors import SettingError
from eclab.network import rules_values as values
from eclab.network import rules_weights as weights
from eclab.network.rule import Labelling, NoRuleError, Rule, Tracer, at, carried

__all__ = [
    "BY_NAME", "MOVES", "RULES", "Labelling", "NoRuleError", "Rule", "Tracer",
    "at", "carried", "markdown", "operation_name", "register_rule", "remove_rule", "supported",
]  # fmt: skip

MOVES = (
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "mT",
    "squeeze", "unsqueeze", "expand", "slice", "select", "movedim", "moveaxis", "swapaxes", "swapdims", "stack",
    "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "repeat", "repeat_interleave", "tile",
    "flip", "roll", "diagonal", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
)  # fmt: skip
"""Operations that only put elements elsewhere."""

_BENT = (
    "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "celu", "softplus", "hardtanh", "hardswish", "hardsigmoid",
    "mish", "log_sigmoid", "softsign", "exp", "log", "sin", "cos", "relu6", "pow", "sqrt", "rsqrt", "square",
    "reciprocal", "erf", "softshrink", "hardshrink",
)  # fmt: skip

_BARRIERS = {
    "Softmax": ("softmax", "log_softmax", "_softmax", "_log_softmax", "softmin"),
    "LayerNorm, RMSNorm": ("layer_norm", "rms_norm", "_fused_rms_norm"),
    "attention": ("scaled_dot_product_attention",),
    "LSTM, GRU, RNN": (
        "lstm",
        "gru",
        "rnn_tanh",
        "rnn_relu",
        "lstm_cell",
        "gru_cell",
        "rnn_tanh_cell",
        "rnn_relu_cell",
    ),
    "Bilinear": ("bilinear",),
    "GLU": ("glu",),
    "AlphaDropout": ("alpha_dropout", "feature_alpha_dropout"),
}


def _aten(*names: str) -> tuple[str, ...]:
    return tuple(f"aten.{name}" for name in names)


def _each(name: str, axes: Iterable[int] = (1, 2, 3), end: str = "d") -> tuple[str, ...]:
    return _aten(*(f"{name}{n}{end}" for n in axes))


RULES: tuple[Rule, ...] = (
    Rule(_aten("linear"), weights.linear, "Linear"),
    Rule(_aten("matmul", "mm"), weights.matmul, "x @ W", note="W a parameter with two axes, or its transpose"),
    Rule(_aten("addmm"), weights.addmm, "addmm"),
    Rule(_aten("einsum"), weights.einsum, "einsum", note="a matrix that takes one axis of a value to another"),
    Rule(_each("conv"), weights.conv, "Conv1d, Conv2d, Conv3d", note="any kernel, stride, dilation, groups"),
    Rule(_each("conv_transpose"), weights.conv_transpose, "ConvTranspose1d, 2d, 3d", note="any groups"),
    Rule(_aten("embedding"), weights.embedding, "Embedding", note="its tokens are ground"),
    Rule(_aten("embedding_bag"), weights.embedding_bag, "EmbeddingBag", note="without weights for each sample"),
    Rule(
        _aten("batch_norm", "_native_batch_norm_legit_functional"),
        weights.batch_norm,
        "BatchNorm1d, 2d, 3d",
        note="two redundancies a channel; exact up to eps with training statistics, exact with frozen ones",
    ),
    Rule(
        _aten("instance_norm"),
        weights.batch_norm,
        "InstanceNorm1d, 2d, 3d",
        note="as batch-norm with statistics of every sample",
    ),
    Rule(
        _aten("group_norm"),
        weights.group_norm,
        "GroupNorm",
        note="the channels of a group share one scale, which is free; exact up to eps",
    ),
    Rule(_aten("relu"), values.activation("relu", gate=True), "ReLU", elementwise=True),
    Rule(_aten("leaky_relu"), values.activation("leaky_relu", gate=False), "LeakyReLU", elementwise=True),
    Rule(
        _aten("prelu"),
        values.activation("prelu", gate=False),
        "PReLU",
        note="its slopes take the base step",
        elementwise=True,
    ),
    Rule(
        _aten("rrelu", "rrelu_with_noise"),
        values.activation("rrelu", gate=False),
        "RReLU",
        note="mean slope where a question is asked",
        elementwise=True,
    ),
    Rule(_aten("abs"), values.activation("abs", gate=False), "absolute value"),
    Rule(_aten("clamp", "clamp_min", "clamp_max"), values.clamp, "clamp", note="at 0 on one side; else it pins"),
    Rule(_aten("threshold"), values.threshold, "Threshold", note="from 0 to 0; else it pins"),
    Rule(
        _aten("maximum", "minimum", "max", "min", "amax", "amin"),
        values.extremum,
        "maximum, minimum",
        note="with 0, of two values or along an axis; what is compared shares one scale",
    ),
    Rule(
        (*_each("max_pool"), *_each("max_pool", end="d_with_indices"), *_each("max_unpool", (2, 3))),
        values.pool,
        "MaxPool",
    ),
    Rule(_each("avg_pool"), values.pool, "AvgPool"),
    Rule(_each("adaptive_avg_pool"), values.pool, "AdaptiveAvgPool"),
    Rule(_each("adaptive_max_pool"), values.pool, "AdaptiveMaxPool"),
    Rule(
        (
            *_each("upsample_nearest"),
            *_aten("_upsample_nearest_exact2d", "upsample_linear1d", "upsample_bilinear2d"),
            *_aten("upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        ),
        values.pool,
        "Upsample",
        note="nearest, linear, bilinear, bicubic, trilinear",
    ),
    Rule(_aten("pad"), values.pad, "padding", note="with zeros, or reflected, repeated, circular; another number pins"),
    Rule(_aten("mean", "sum"), values.mean, "mean, sum", note="over positions; a sum over units is their addition"),
    Rule(_aten("add", "sub", "rsub"), values.add, "addition", note="its operands share one scale a channel"),
    Rule(
        _aten("mul", "div"),
        values.times,
        "multiplication",
        note="by a number, a buffer, a learned factor, or a gate that is pinned; two activations pin each other",
    ),
    Rule(_aten("neg"), values.keep, "minus"),
    Rule(
        _aten("sign", "gt", "ge", "lt", "le"),
        values.sign,
        "sign, comparison with 0",
        note="its value is fixed, what is asked stays free",
    ),
    Rule(_aten("where"), values.where, "where", note="by a condition that no scale changes; fixed values but 0 pin"),
    Rule(_aten("masked_fill"), values.masked_fill, "masked_fill", note="with 0"),
    Rule(_aten("dropout", "feature_dropout"), values.keep, "Dropout", elementwise=True),
    Rule(
        _aten("contiguous", "clone", "alias", "detach", "to", "lift_fresh_copy"),
        values.keep,
        "Identity",
        elementwise=True,
    ),
    Rule(_aten("cat", "concat", "concatenate"), values.cat, "concatenation"),
    Rule(_aten(*MOVES), values.move, "Flatten, reshape, permute, slices, splits, PixelShuffle, ChannelShuffle"),
    Rule(_aten("index", "index_select"), values.taken, "indexing", note="by fixed places"),
    Rule(_aten("expand_as", "view_as", "reshape_as"), values.like, "expand_as"),
    *(Rule(_aten(name), values.bent(name), name, homogeneous=False) for name in _BENT),
    *(Rule(_aten(*names), values.barrier(words), words, homogeneous=False) for words, names in _BARRIERS.items()),
)
"""What eclab knows by itself; see :func:`register_rule` for more."""

BY_NAME: dict[str, Rule] = {name: rule for rule in RULES for name in rule.names}
"""The rules in force by operation: those above and those that were registered."""

_BUILT_IN = dict(BY_NAME)

FORMS: dict[str, tuple[Labelling, bool, bool]] = {
    "elementwise": (values.keep, True, True),
    "channels": (values.pool, True, False),
    "pins": (values.barrier(""), False, False),
}
"""Forms of rules that have a name: labelling, homogeneous, elementwise."""


def operation_name(operation: Any) -> str:
    """The name that rules go by: ``"mylib.op"`` of ``torch.ops.mylib.op``, of its overloads, or of a custom operation.

    Raises:
        SettingError: it is neither an operation of ``torch.ops`` nor the name of one.

    Example:
        >>> import torch
        >>> operation_name(torch.ops.aten.relu.default), operation_name("aten::relu_")
        ('aten.relu', 'aten.relu')
    """
    text = getattr(operation, "_qualname", None) or str(operation)
    parts = text.replace("::", ".").split(".")
    known = isinstance(operation, str) or hasattr(operation, "_qualname") or "torch._ops" in type(operation).__module__
    if not known or len(parts) not in (2, 3) or not all(part.isidentifier() for part in parts[:2]):
        raise SettingError(
            f"{operation!r} names no operation",
            allowed='an operation of torch.ops, one made with torch.library.custom_op, or a name such as "mylib.op"',
            fix="look for its name in [op.name for op in net.operations]",
        )
    return f"{parts[0]}.{parts[1].rstrip('_')}"


def register_rule(
    operations: Any,
    label: str | Labelling,
    *,
    words: str = "",
    homogeneous: bool | None = None,
    note: str = "",
    replace: bool = False,
) -> Rule:
    """Tells eclab how an operation treats scales: one of your own, or one that has no rule yet.

    A wrong rule makes wrong classes: let ``eclab.trace(model, x, verify=True)`` check it in numbers.

    Args:
        operations: the operation, or a list of them: an operation of ``torch.ops``, one made with
            ``torch.library.custom_op``, or its name ``"mylib.op"``.
        label: one of

            - ``"elementwise"``: ``f(c·z) = c·f(z)`` for ``c > 0``, element by element, as an activation;
            - ``"channels"``: the same for every channel (axis 1) as a whole, as a pooling;
            - ``"pins"``: no scale goes through;
            - a function ``(tracer, op) → labels`` that says for every element of the value which unit it belongs to;
              ``eclab.network.rule`` says what it may ask of the tracer, ``eclab.network.rules_values`` holds examples.
        words: what it is called in messages and tables; its name without it.
        homogeneous: whether what enters may scale; needed for a function only, whose default is True.
        note: what a reader of the table should know.
        replace: whether a rule that is there may be replaced.

    Returns:
        The rule, for :func:`remove_rule`.

    Raises:
        SettingError: no such form, no operation, or there is a rule already.

    Example:
        >>> import torch, eclab
        >>> rule = eclab.register_rule("aten.hardshrink", "elementwise", replace=True)  # wrong: it is not homogeneous
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Hardshrink(), torch.nn.Linear(3, 1))
        >>> eclab.trace(model, torch.ones(2, 2), verify=True)
        Traceback (most recent call last):
        ...
        eclab.errors.TraceError: the rule of aten.hardshrink at '1' does not hold...
        >>> eclab.remove_rule(rule)

    Source: theory §1, what fixes a unit's scale.
    """
    listed = operations if isinstance(operations, list | tuple) else [operations]
    names = tuple(operation_name(operation) for operation in listed)
    taken = [name for name in names if name in BY_NAME]
    if not names or (taken and not replace):
        raise SettingError(
            f"{', '.join(taken)} has a rule already" if names else "no operation is named",
            allowed="operations without a rule",
            fix="pass replace=True to put yours in its place" if names else "name at least one",
        )
    known = words or ", ".join(names)
    if callable(label):
        rule = Rule(names, label, known, homogeneous is not False, note)
    elif label in FORMS and homogeneous is None:
        labelling, scales, elementwise = FORMS[label]
        labelling = values.barrier(known) if label == "pins" else labelling
        rule = Rule(names, labelling, known, scales, note, elementwise)
    else:
        raise SettingError(
            f"the rule is {label!r}" + ("" if homogeneous is None else f" with homogeneous={homogeneous!r}"),
            allowed=f"{', '.join(map(repr, FORMS))}, which say it themselves, or a function (tracer, op) -> labels",
        )
    BY_NAME.update(dict.fromkeys(names, rule))
    return rule


def remove_rule(rule: Rule) -> None:
    """Takes a registered rule back; where it had replaced one of eclab's, that one holds again.

    Raises:
        SettingError: the rule is not in force.
    """
    if any(BY_NAME.get(name) is not rule for name in rule.names):
        raise SettingError(
            f"the rule of {', '.join(rule.names)} is not in force", allowed="what register_rule returned"
        )
    for name in rule.names:
        if name in _BUILT_IN:
            BY_NAME[name] = _BUILT_IN[name]
        else:
            del BY_NAME[name]


def supported() -> list[tuple[str, str, str]]:
    """The table of operations: ``(what it is, "scales freely" or "pins its units", note)``.

    Example:
        >>> ("ReLU", "scales freely", "") in supported()
        True
    """
    rules = dict.fromkeys([*RULES, *BY_NAME.values()])
    in_force = [rule for rule in rules if any(BY_NAME.get(name) is rule for name in rule.names)]
    return [(rule.words, "scales freely" if rule.homogeneous else "pins its units", rule.note) for rule in in_force]


def markdown() -> str:
    """The table of :func:`supported` in Markdown, as the README has it; what pins its units stands in one row.

    Example:
        >>> markdown().splitlines()[0]
        '| operation | its units | note |'
    """
    free = [row for row in supported() if row[1] == "scales freely"]
    pinned = ", ".join(words for words, scales, _ in supported() if scales != "scales freely")
    lines = ["| operation | its units | note |", "| --- | --- | --- |"]
    lines += [f"| {words} | scale freely |{note and f' {note}'} |" for words, _, note in free]
    return "\n".join([*lines, f"| {pinned} | are pinned | |", ""])


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
