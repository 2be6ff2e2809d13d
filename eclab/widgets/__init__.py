"""The lab in a notebook: traits, validation and wiring. No mathematics lives here."""

from __future__ import annotations

from eclab.widgets.lab import Lab

__all__ = ["Lab"]
