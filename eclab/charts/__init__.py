"""Records -> Altair charts: for notebooks with the numbers in them, for the lab as specifications to be fed."""

from eclab.charts.curves import (
    Lane,
    Mark,
    accuracy_chart,
    gauge_chart,
    gradient_chart,
    loss_chart,
    race_chart,
    speed_chart,
)
from eclab.charts.landscape import landscape_chart
from eclab.charts.live import LiveSpec, live_specs
from eclab.charts.palette import LANE_COLOURS, LANE_DASHES, LANE_TEXT, THEMES
from eclab.charts.series import smooth, thin

__all__ = [
    "LANE_COLOURS",
    "LANE_DASHES",
    "LANE_TEXT",
    "THEMES",
    "Lane",
    "LiveSpec",
    "Mark",
    "accuracy_chart",
    "gauge_chart",
    "gradient_chart",
    "landscape_chart",
    "live_specs",
    "loss_chart",
    "race_chart",
    "smooth",
    "speed_chart",
    "thin",
]
