"""Colours of the charts, in light and dark.

Lanes: SGD orange, EC-SGD blue, further lanes after Okabe and Ito with the lightness changed until each has a contrast
of at least 3:1 against the background as a line and 4.5:1 as text. Under the common colour-blindness simulations every
two stay apart; dashes tell further lanes apart without any colour.
"""

from __future__ import annotations

from types import MappingProxyType

LANE_COLOURS = MappingProxyType(
    {
        "light": ("#cf7a1f", "#2b7bba", "#00664a", "#a3206f", "#776432", "#3f454d", "#279bbd", "#8f1d0a"),
        "dark": ("#f0a254", "#63b0ee", "#8ff0d0", "#b9799b", "#f5e471", "#c0c5cb", "#1f83c9", "#d9541e"),
    }
)
"""Lines and marks of the lanes, by theme and `Lane.colour`."""

LANE_TEXT = MappingProxyType(
    {
        "light": ("#a45c0c", "#2373b2", "#00664a", "#a3206f", "#776432", "#3f454d", "#147d9a", "#8f1d0a"),
        "dark": ("#f0a254", "#63b0ee", "#8ff0d0", "#b9799b", "#f5e471", "#c0c5cb", "#2f8ed4", "#e2622e"),
    }
)
"""The same as text."""

LANE_DASHES: tuple[tuple[int, ...], ...] = ((), (), (6, 2), (2, 2), (8, 2, 2, 2), (4, 4), (1, 3), (10, 3))
"""Dash patterns of the lanes' lines in pixels; empty for a solid line."""

THEMES = MappingProxyType(
    {
        "light": MappingProxyType(
            {
                "background": "#ffffff",
                "panel": "#fafafa",
                "ink": "#1f2328",
                "mute": "#5d646e",
                "line": "#e0e0e0",
                "grid": "#eceff2",
                "warn": "#b3261e",
            }
        ),
        "dark": MappingProxyType(
            {
                "background": "#15181c",
                "panel": "#1b1f24",
                "ink": "#e6e8eb",
                "mute": "#9aa4af",
                "line": "#30363d",
                "grid": "#262c33",
                "warn": "#ff8a80",
            }
        ),
    }
)
"""Everything else on a chart, by theme."""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
