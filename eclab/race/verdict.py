"""The verdict on one race: what each lane reached, in numbers and words that promise nothing."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from eclab.race.store import LaneEnd

CAVEAT = (
    "One run with one seed proves nothing: repeat it with at least five seeds and a grid of learning rates for each "
    "lane before you call one better."
)
LOSS_WINDOW = 50


@dataclass(frozen=True)
class LaneVerdict:
    """What one lane reached.

    Args:
        label: the lane's.
        steps: steps taken.
        lr: the last learning rate.
        last_accuracy, best_accuracy: of the test data, 0 to 1, or None if never evaluated.
        loss: mean of the last 50 finite losses, in nats, or None.
        ms: median milliseconds of a whole iteration, or None.
        state: "running" or "diverged".
        verdict: why it diverged.
    """

    label: str
    steps: int
    lr: float
    last_accuracy: float | None
    best_accuracy: float | None
    loss: float | None
    ms: float | None
    state: str
    verdict: str

    def cells(self) -> tuple[str, ...]:
        """The row of the table: label, rate, accuracies, loss, speed, state."""
        return (
            self.label,
            f"{self.lr:g}",
            _percent(self.last_accuracy),
            _percent(self.best_accuracy),
            "–" if self.loss is None else f"{self.loss:.3g}",
            "–" if self.ms is None else f"{self.ms:.3g}",
            f"{self.steps:,}",
            "ok" if self.state == "running" else self.verdict.partition(":")[0],
        )


HEAD = ("lane", "lr", "test acc.", "best", "loss", "ms a step", "steps", "")
"""Titles of the table's columns; why a lane diverged is in the text below, so that the table fits 80 columns."""


@dataclass(frozen=True)
class Verdict:
    """What a race says, and what it does not.

    Args:
        rows: a verdict a lane.
        text: the comparison in words, with the caveat.
    """

    rows: tuple[LaneVerdict, ...]
    text: str

    def __str__(self) -> str:
        cells = [HEAD, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
        lines = [
            "  ".join(
                cell.ljust(width) if column in (0, len(HEAD) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        return "\n".join([*lines, "", self.text])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(title)}</th>" for title in HEAD)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells()) + "</tr>" for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{html.escape(self.text)}</p>"


def judge(frame: pd.DataFrame, lanes: Sequence[LaneEnd]) -> Verdict:
    """The verdict on a race's records.

    Args:
        frame: one row a record.
        lanes: how the lanes ended.
    """
    rows = tuple(_judge_lane(frame[frame["lane"] == lane.name], lane) for lane in lanes)
    return Verdict(rows, f"{_compare(rows)} {CAVEAT}".strip())


def _judge_lane(records: pd.DataFrame, lane: LaneEnd) -> LaneVerdict:
    accuracy = records["test_acc"].dropna()
    losses = [value for value in records["loss"].tolist()[-LOSS_WINDOW:] if math.isfinite(value)]
    whole = records["ms_forward_backward"] + records["ms_step"]
    done = whole[records["ms_step"] > 0]
    return LaneVerdict(
        label=lane.label,
        steps=len(records),
        lr=float(records["lr"].iloc[-1]) if len(records) else lane.lr,
        last_accuracy=float(accuracy.iloc[-1]) if len(accuracy) else None,
        best_accuracy=float(accuracy.max()) if len(accuracy) else None,
        loss=sum(losses) / len(losses) if losses else None,
        ms=float(done.median()) if len(done) else None,
        state=lane.state,
        verdict=lane.verdict,
    )


def _compare(rows: Sequence[LaneVerdict]) -> str:
    lost = [row for row in rows if row.state == "diverged"]
    kept = [row for row in rows if row.state != "diverged" and row.last_accuracy is not None]
    parts = [f"{row.label} {row.verdict}." for row in lost]
    if len(kept) > 1:
        best = max(kept, key=lambda row: row.last_accuracy or 0.0)
        worst = min(kept, key=lambda row: row.last_accuracy or 0.0)
        apart = 100 * ((best.last_accuracy or 0.0) - (worst.last_accuracy or 0.0))
        if apart:
            parts.append(f"{best.label} ends {apart:.1f} points of test accuracy above {worst.label}.")
        else:
            parts.append("The lanes end at the same test accuracy.")
    elif len(kept) == 1 and lost:
        parts.append(f"{kept[0].label} ends at {_percent(kept[0].last_accuracy)} test accuracy.")
    return " ".join(parts)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
