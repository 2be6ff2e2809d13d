"""The race: lanes in lockstep from the same weights on the same batches, as a generator of records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eclab.errors import SettingError
from eclab.race import checkpoint, controls, settings
from eclab.race.batches import BatchOrder
from eclab.race.config import Config
from eclab.race.interrupt import whole_steps
from eclab.race.lanes import Lane, parse_lanes
from eclab.race.measure import EVALUATION_CHUNK, train_step
from eclab.race.record import Event, Record, RecordLog
from eclab.race.store import Result
from eclab.race.task import SharedNoise, Task, build_model, find_data, is_random, least_batch, make_task, start_network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eclab.facade import Network
    from eclab.network.spec import NetworkSpec


class Race:
    """Train one network by several optimizers at once and write down what happens.

    Every lane starts from the same weights and sees the same batches in the same order; dropout drops the same units.
    The order of the batches, the initial weights and the unbalance come from `seed` alone, so a race can be repeated
    and, on the CPU, continued bit for bit from a checkpoint.

    Args:
        model: an nn.Module (copied, never touched), a NetworkSpec, or its text such as "64-32-10".
        data: name of a data set, an eclab.data.Dataset, or own arrays.
        lanes: optimizers by name, "name:rate" or dict; see `eclab.race.parse_lanes`. At most 8.
        lr: learning rate of all lanes, or {lane: rate}; finite and positive.
        epochs: passes over the training data.
        batch_size: samples a step.
        seed: of initial weights, batch order, unbalance and dropout.
        device: "auto" (CUDA if there), "cpu", "cuda" ...
        start: "skeleton" sets the skeleton weights of all lanes to 1 (the paper's start), "model" keeps the weights.
        unbalance: sigma of one log-normal rescaling applied to every lane's start; 0 for none. It changes no function.
        momentum: of all lanes that have one, in [0, 1); Adam has not.
        weight_decay: of all lanes; acts on weights in "sgd" and on class coordinates in "ec-sgd".
        eval_every: steps between two test accuracies; by default as many as there are batches in the test data, so that
            evaluation costs at most a third of training. The end of every epoch is always evaluated.
        dtype: of weights and inputs.

    Raises:
        SettingError: a setting out of range, an unknown lane, a model that does not fit the data.
        SpecError, TraceError, DataError: from network, model or data.

    Example:
        >>> race = Race("64-8-10", "digits", lanes=["sgd", "ec-sgd"], epochs=1, device="cpu")
        >>> [(record.step, record.lane) for record in race.step()]
        [(1, 'sgd'), (1, 'ec-sgd')]
        >>> race.position, race.total_steps > 1
        (1, True)

    Source: the start with skeleton weights 1 is that of arXiv:1802.03713, section 4.
    """

    def __init__(
        self,
        model: nn.Module | NetworkSpec | str,
        data: Any = "digits",
        lanes: str | Sequence[Any] = ("sgd", "ec-sgd"),
        *,
        lr: float | Mapping[str, float] = 0.1,
        epochs: int = 5,
        batch_size: int = 64,
        seed: int = 0,
        device: str | torch.device = "auto",
        start: str = "skeleton",
        unbalance: float = 0.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        eval_every: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        specs = parse_lanes(lanes)
        names = [spec.name for spec in specs]
        rates = settings.lane_rates(lr, names, {spec.name: spec.lr for spec in specs if spec.lr is not None})
        self.device = settings.device(device)
        dataset = find_data(data)
        self.config = Config(
            lanes=tuple(replace(spec, lr=rates[spec.name]) for spec in specs),
            epochs=settings.whole(epochs, "the number of epochs"),
            batch_size=settings.batch_size(batch_size, len(dataset.x_train), dataset.name),
            seed=settings.whole(seed, "the seed", least=0, most=settings.HIGHEST_SEED),
            start=settings.one_of(start, ("skeleton", "model"), "the start"),
            unbalance=settings.non_negative(unbalance, "the unbalance"),
            momentum=settings.below_one(momentum, "the momentum"),
            weight_decay=settings.non_negative(weight_decay, "the weight decay"),
            eval_every=None if eval_every is None else settings.whole(eval_every, "eval_every"),
            dtype=settings.dtype_name(dtype),
        )
        own, self.spec_json = build_model(model, self.config.seed, dtype, self.device)
        self.task: Task = make_task(dataset, own, dtype, self.device)
        self.start_net: Network = start_network(
            own, self.task, self.config.start, self.config.unbalance, self.config.seed
        )
        self._random, self._fewest = is_random(own, self.task.x), least_batch(own, self.task)
        settings.batch_size(self.config.batch_size, len(self.task.x), self.task.name, self._fewest)
        self._stop: Callable[[], bool] | None = None
        self.lanes: list[Lane] = [self._new_lane(spec) for spec in self.config.lanes]
        self._begin()

    def _new_lane(self, spec: Any) -> Lane:
        config = self.config
        momentum = config.momentum if spec.momentum is None else spec.momentum
        decay = config.weight_decay if spec.weight_decay is None else spec.weight_decay
        return Lane(spec, controls.copy_network(self.start_net), spec.lr, momentum, decay)

    def _begin(self) -> None:
        self.position = 0
        self.epochs, self.batch_size = self.config.epochs, self.config.batch_size
        self.order = BatchOrder(len(self.task.x), self.config.seed, self.device, self._fewest)
        self.records = RecordLog([lane.name for lane in self.lanes])
        self.events: list[Event] = []
        self.unbalances, self.broken = 0, ""

    # -- running ------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether all epochs are over or every lane has diverged."""
        return self.order.epoch >= self.epochs or not any(lane.running for lane in self.lanes)

    @property
    def total_steps(self) -> int:
        """Steps done and still to do at the present batch size."""
        return self.position + self.order.remaining(self.batch_size, self.epochs)

    @property
    def eval_every(self) -> int:
        """Steps between two test accuracies."""
        return self.config.eval_every or max(1, -(-len(self.task.x_test) // self.batch_size))

    def step(self) -> list[Record]:
        """One step of every lane that still runs, on one batch.

        Returns:
            A record a lane, in the order of the lanes; none when the race is finished. The last record of a lane that
            diverges in this step has a loss or gradient that is not finite.

        Raises:
            SettingError: an earlier step was cut off half-way by an error.
        """
        if self.broken:
            raise SettingError(
                f"the race stopped in the middle of a step ({self.broken})", fix="reset it, or resume a checkpoint"
            )
        if self.finished:
            return []
        with whole_steps():
            return self._step()

    def _step(self) -> list[Record]:
        self.broken = f"step {self.position + 1} was not completed"
        batch = self.order.take(self.batch_size)
        x, y = self.task.x[batch], self.task.y[batch]
        self.position += 1
        running = [lane for lane in self.lanes if lane.running]
        # Whoever goes first finds the batch cold in the cache, so the lanes take turns.
        turn = self.position % len(running)
        made = {lane.name: self._lane_step(lane, x, y) for lane in running[turn:] + running[:turn]}
        records = [made[lane.name] for lane in running]
        for record in records:
            self.records.append(record)
        self.broken = ""
        return records

    def _lane_step(self, lane: Lane, x: Tensor, y: Tensor) -> Record:
        rate = lane.lr
        if self._random:
            with SharedNoise(self.config.seed, self.position, x):
                done = train_step(lane, x, y)
        else:
            done = train_step(lane, x, y)
        lane.took(self.position, done.ms_forward_backward, done.ms_step)
        if done.trouble:
            lane.diverge(f"diverged at step {self.position:,}: {done.trouble}")
            self.events.append(Event(self.position, f"{lane.label} {lane.verdict}", "diverged", lane.name))
        return Record(
            step=self.position,
            epoch=self.order.seen,
            lane=lane.name,
            time=lane.time,
            loss=done.loss,
            train_acc=done.correct,
            test_acc=self._test_accuracy(lane),
            grad_norm=done.grad_norm,
            gauge_drift=lane.gauge.total() if lane.running else math.nan,
            guarded=lane.guarded,
            ms_forward_backward=done.ms_forward_backward,
            ms_step=done.ms_step,
            lr=rate,
        )

    def _test_accuracy(self, lane: Lane) -> float | None:
        due = self.position % self.eval_every == 0 or self.order.offset == 0
        if not (due and lane.running):
            return None
        chunk = max(EVALUATION_CHUNK, self.batch_size)
        return lane.accuracy(self.task.x_test, self.task.y_test, self._stop, chunk)

    def __iter__(self) -> Iterator[Record]:
        """The records still to come, one after another; whole steps are taken, so breaking off loses nothing."""
        while records := self.step():
            yield from records

    def run(self, progress: Callable[[Race], None] | None = None, steps: int | None = None) -> Result:
        """Train to the end and block meanwhile.

        Args:
            progress: called after every step.
            steps: take at most so many steps.

        Returns:
            What was recorded so far, with the weights.
        """
        left = math.inf if steps is None else settings.whole(steps, "the number of steps")
        while left > 0 and self.step():
            left -= 1
            if progress is not None:
                progress(self)
        return self.result()

    def result(self) -> Result:
        """What was recorded so far, with a copy of the weights."""
        return Result.of(self)

    def reset(self) -> None:
        """Back to the start with the settings as they now are; records and events are dropped."""
        specs = tuple(replace(lane.spec, lr=lane.lr, weight_decay=lane.weight_decay) for lane in self.lanes)
        self.config = replace(self.config, lanes=specs, epochs=self.epochs, batch_size=self.batch_size)
        for lane in self.lanes:
            lane.model.load_state_dict(self.start_net.model.state_dict())
            lane.restart()
        self._begin()

    def interrupt_with(self, stop: Callable[[], bool] | None) -> None:
        """Let `stop` cut an evaluation short: it is asked every few hundred samples; the accuracy is then None."""
        self._stop = stop

    # -- controls -----------------------------------------------------------------------------------------------------

    def lane(self, name: str | Lane) -> Lane:
        """The lane of that name.

        Raises:
            SettingError: there is none.
        """
        for lane in self.lanes:
            if name in (lane.name, lane):
                return lane
        raise SettingError(f"there is no lane {name!r}", allowed=", ".join(lane.name for lane in self.lanes))

    def set_lr(self, lane: str | None, lr: float) -> None:
        """Change the learning rate of a lane, or of all with None, from the next step on. Marked as an event."""
        rate = settings.rate(lr)
        controls.change(self, "lr", "lr", rate, self.lanes if lane is None else [self.lane(lane)])

    def set_weight_decay(self, weight_decay: float, lane: str | None = None) -> None:
        """Change the weight decay from the next step on. Marked as an event."""
        decay = settings.non_negative(weight_decay, "the weight decay")
        controls.change(self, "weight_decay", "weight decay", decay, self.lanes if lane is None else [self.lane(lane)])

    def set_batch_size(self, batch_size: int) -> None:
        """Change the number of samples a step from the next step on. Marked as an event."""
        count = settings.batch_size(batch_size, len(self.task.x), self.task.name, self._fewest)
        if count != self.batch_size:
            self.note("batch", f"batch size {self.batch_size} → {count}")
            self.batch_size = count

    def set_epochs(self, epochs: int) -> None:
        """Change how many epochs the race goes; not below those done."""
        done = math.ceil(self.order.seen)
        count = settings.whole(epochs, "the number of epochs", least=max(1, done))
        if count != self.epochs:
            self.note("epochs", f"epochs {self.epochs} → {count}")
            self.epochs = count

    def rescale(
        self, scales: Mapping[str, Any], note: str | None = None, lanes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Rescale units in every running lane by the same factors; no function changes.

        Args:
            scales: {layer: factor, or tensor [width]}, each positive and finite.
            note: the event's text; None makes one, "" leaves none.
            lanes: only these.

        Returns:
            The factors, {layer: tensor [width]}.

        Raises:
            ScaleError: a factor out of range, or a unit that cannot be rescaled; nothing is changed.
        """
        return controls.rescale(self, scales, note, lanes)

    def unbalance(self, sigma: float, lanes: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Rescale all free units of every running lane by the same random log-normal factors; no function changes.

        Args:
            sigma: standard deviation of the factors' logarithms; positive.
            lanes: only these.

        Returns: the factors, {layer: tensor [width]}.
        """
        return controls.unbalance(self, sigma, lanes)

    def note(self, kind: str, text: str, lane: str | None = None) -> None:
        """Mark an event at the present step."""
        self.events.append(Event(self.position, text, kind, lane))

    # -- looking ------------------------------------------------------------------------------------------------------

    def evaluate(self, lane: str) -> float:
        """Test accuracy of a lane as it is now, 0 to 1."""
        share = self.lane(lane).accuracy(self.task.x_test, self.task.y_test)
        return math.nan if share is None else share

    def decision_map(self, lane: str, resolution: int = 64) -> NDArray[np.float32]:
        """Class probabilities over the plane, for data with two inputs.

        Args:
            lane: whose network.
            resolution: points along each side.

        Returns:
            float32 [resolution, resolution, classes]; row 0 is the top (largest second input), as a picture is drawn.
            It covers `map_extent`.

        Raises:
            SettingError: the data are not points in the plane.
        """
        return controls.decision_map(self, self.lane(lane), resolution)

    @property
    def map_extent(self) -> tuple[float, float, float, float]:
        """What `decision_map` covers: (left, right, bottom, top), the data and a margin of a tenth."""
        return controls.extent(self)

    def steps_per_second(self, lane: str) -> float | None:
        """Speed of a lane from the median of its last 100 steps (forward, backward and step); None before the first."""
        return controls.steps_per_second(self.lane(lane))

    def overhead(self, lane: str | None = None, against: str | None = None) -> float | None:
        """How much longer a whole iteration takes than another lane's, in percent.

        The median over the last 100 steps of the ratio step by step, so that what disturbs the machine disturbs both.

        Args:
            lane: by default the first EC-SGD lane.
            against: by default the first SGD lane.

        Returns:
            Percent, or None without both lanes or before 10 common steps.
        """
        return controls.overhead(self, lane, against)

    def checkpoint(self, path: str | Path) -> Path:
        """Write all that is needed to continue exactly into one safetensors file (no pickle), whole or not at all."""
        return checkpoint.write(self, Path(path))

    def restore(self, path: str | Path) -> None:
        """Continue from a checkpoint of this same race (same network, data and lanes).

        Raises:
            CheckpointError: truncated, of another race, or of a newer version; nothing is changed.
        """
        checkpoint.restore(self, Path(path))

    @classmethod
    def resume(
        cls, path: str | Path, model: nn.Module | None = None, data: Any = None, device: str | torch.device = "auto"
    ) -> Race:
        """A race that continues where a checkpoint was written.

        Args:
            path: of the checkpoint, or of the folder it is in.
            model: the model, if the race was not built from a specification.
            data: the data, if they have no name `eclab.data.load` knows.
            device: as for `Race`.

        Raises:
            CheckpointError: truncated, of another network or other data, or of a newer version.
        """
        return checkpoint.resume(Path(path), model, data, device)
