"""What a race writes down: records, events, and a log of them that another thread may read while it grows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Record:
    """One lane's row for one step; plain numbers only.

    Args:
        step: optimizer steps taken, this one included (the first record has 1).
        epoch: passes over the training data so far, with fraction.
        lane: the lane's name.
        time: seconds this lane has spent on forward, backward and step so far (pauses and other lanes excluded).
        loss: mean cross-entropy of the batch before the step, in nats; not finite in the record that ends a lane.
        train_acc: share of the batch classified correctly before the step, 0 to 1.
        test_acc: share of the test data classified correctly after the step, or None when not evaluated here.
        grad_norm: Euclidean length of the gradient in weight space.
        gauge_drift: sum over free units of |w_in|^2 - |w_out|^2 after the step.
        guarded: moves of skeleton coordinates the guard has shortened so far (0 for lanes without a guard).
        ms_forward_backward: milliseconds of forward, loss and backward.
        ms_step: milliseconds of the optimizer's step.
        lr: the learning rate this step used.

    Example:
        >>> Record(1, 0.05, "sgd", 0.01, 2.3, 0.1, None, 1.5, 0.0, 0, 4.0, 0.5, 0.1).test_acc is None
        True
    """

    step: int
    epoch: float
    lane: str
    time: float
    loss: float
    train_acc: float
    test_acc: float | None
    grad_norm: float
    gauge_drift: float
    guarded: int
    ms_forward_backward: float
    ms_step: float
    lr: float


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Record))
"""Names of a record's fields, the columns of a log's rows and of a result's frame, in order."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened between two steps and is marked on the charts.

    Args:
        step: how many steps had been taken.
        text: what happened, in words.
        kind: "lr", "batch", "decay", "rescale", "epochs" or "diverged".
        lane: the lane it concerns, or None for all of them.
    """

    step: int
    text: str
    kind: str
    lane: str | None = None


class RecordLog(Sequence[Record]):
    """All records of a race, kept as rows of numbers: 104 bytes each.

    One thread appends, any thread may read: rows are written before the length grows and blocks never move.

    Args:
        lanes: the lanes' names; in a row a lane is its index here.

    Example:
        >>> log = RecordLog(["sgd"])
        >>> log.append(Record(1, 0.05, "sgd", 0.01, 2.3, 0.1, None, 1.5, 0.0, 0, 4.0, 0.5, 0.1))
        >>> log[0].loss, log.rows().shape
        (2.3, (1, 13))
    """

    def __init__(self, lanes: Sequence[str]) -> None:
        self.lanes = tuple(lanes)
        self._index = {name: number for number, name in enumerate(self.lanes)}
        self._blocks: list[NDArray[np.float64]] = []
        self._length = 0

    def append(self, record: Record) -> None:
        """Add a record at the end."""
        block, row = divmod(self._length, BLOCK_ROWS)
        if block == len(self._blocks):
            self._blocks.append(np.full((BLOCK_ROWS, len(COLUMNS)), np.nan))
        self._blocks[block][row] = [
            record.step,
            record.epoch,
            self._index[record.lane],
            record.time,
            record.loss,
            record.train_acc,
            math.nan if record.test_acc is None else record.test_acc,
            record.grad_norm,
            record.gauge_drift,
            record.guarded,
            record.ms_forward_backward,
            record.ms_step,
            record.lr,
        ]
        self._length += 1

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, key: int) -> Record: ...
    @overload
    def __getitem__(self, key: slice) -> list[Record]: ...
    def __getitem__(self, key: int | slice) -> Record | list[Record]:
        length = self._length
        if isinstance(key, slice):
            return [self._record(row) for row in range(*key.indices(length))]
        row = key + length if key < 0 else key
        if not 0 <= row < length:
            raise IndexError(f"record {key} of {length}")
        return self._record(row)

    def __iter__(self) -> Iterator[Record]:
        for row in range(self._length):
            yield self._record(row)

    def _record(self, row: int) -> Record:
        block, at = divmod(row, BLOCK_ROWS)
        values: list[Any] = self._blocks[block][at].tolist()
        step, epoch, lane, time, loss, train, test, norm, drift, guarded, forward, ms_step, lr = values
        test_acc = None if math.isnan(test) else test
        name = self.lanes[int(lane)]
        return Record(
            int(step), epoch, name, time, loss, train, test_acc, norm, drift, int(guarded), forward, ms_step, lr
        )

    def rows(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """The records as numbers, a copy.

        Args:
            start: first row.
            stop: row after the last; None for all there are.

        Returns:
            float64 [rows, 13], the columns of `COLUMNS`; "lane" is the index of the lane, a missing "test_acc" is NaN.
        """
        end = self._length if stop is None else min(stop, self._length)
        pieces = []
        at = max(start, 0)
        while at < end:
            block, row = divmod(at, BLOCK_ROWS)
            upto = min(BLOCK_ROWS, row + end - at)
            pieces.append(self._blocks[block][row:upto])
            at += upto - row
        return np.concatenate(pieces) if pieces else np.empty((0, len(COLUMNS)))

    def extend(self, rows: NDArray[np.float64]) -> None:
        """Append rows that `rows` gave out, as when a checkpoint is read back."""
        at = 0
        while at < len(rows):
            block, row = divmod(self._length, BLOCK_ROWS)
            if block == len(self._blocks):
                self._blocks.append(np.full((BLOCK_ROWS, len(COLUMNS)), np.nan))
            count = min(BLOCK_ROWS - row, len(rows) - at)
            self._blocks[block][row : row + count] = rows[at : at + count]
            self._length += count
            at += count

    def frame(self) -> pd.DataFrame:
        """The records as a table, one column for each field of `Record`, lanes by name."""
        return frame_of(self.rows(), self.lanes)


def frame_of(rows: NDArray[np.float64], lanes: Sequence[str]) -> pd.DataFrame:
    """A table from rows of numbers, with whole numbers whole and lanes by name."""
    import pandas as pd

    frame = pd.DataFrame({name: rows[:, number] for number, name in enumerate(COLUMNS)})
    for whole in ("step", "guarded"):
        frame[whole] = frame[whole].astype("int64")
    names = np.asarray(list(lanes), dtype=object)
    frame["lane"] = pd.array(names[rows[:, COLUMNS.index("lane")].astype(int)].tolist(), dtype="str")
    return frame
