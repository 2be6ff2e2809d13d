"""The package's exceptions, in the user's terms.

Every message says three things: what was seen, what is allowed, and what to do. Whoever raises one has changed nothing.
"""

from __future__ import annotations


class EclabError(Exception):
    """Anything eclab refuses. Catch this one to catch them all.

    Args:
        seen: what was found, with the offending value.
        allowed: what would have been accepted.
        fix: what the user can do about it.

    Example:
        >>> str(EclabError("the width is 0", allowed="a whole number of at least 1", fix="give the layer a unit"))
        'the width is 0. Allowed: a whole number of at least 1. To fix it: give the layer a unit.'
    """

    def __init__(self, seen: str, *, allowed: str | None = None, fix: str | None = None) -> None:
        self.seen, self.allowed, self.fix = seen.rstrip("."), allowed, fix
        parts = [self.seen]
        if allowed:
            parts.append(f"Allowed: {allowed.rstrip('.')}")
        if fix:
            parts.append(f"To fix it: {fix.rstrip('.')}")
        super().__init__(". ".join(parts) + ".")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.seen, self.allowed, self.fix))


def _rebuild(kind: type[EclabError], seen: str, allowed: str | None, fix: str | None) -> EclabError:
    """Exceptions with keyword arguments need this to survive pickling, as between processes."""
    return kind(seen, allowed=allowed, fix=fix)


class SpecError(EclabError, ValueError):
    """A network description that cannot be built."""


class TraceError(EclabError, TypeError):
    """A model that cannot be read; all of its problems are in one message."""


class ChartError(EclabError, ValueError):
    """A skeleton that is none, or a chart used where it does not reach."""


class ScaleError(EclabError, ValueError):
    """A rescaling outside the group: a scale that is not positive and finite, or of a unit that cannot scale."""


class DataError(EclabError, ValueError):
    """Data that are missing, corrupt, or do not fit."""


class SettingError(EclabError, ValueError):
    """A setting out of range or unknown: a learning rate, a lane, a batch size, a device."""


class NonFiniteError(EclabError, ArithmeticError):
    """A gradient or a step that is NaN or infinite. No weight was changed."""


class CheckpointError(EclabError, ValueError):
    """A checkpoint that is truncated, of another network, or of a newer version."""
