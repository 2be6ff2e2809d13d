"""The order of the batches: one for all lanes, from its own generator, so that it can be continued exactly."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def stream(seed: int, purpose: str) -> int:
    """A seed for one purpose, so that no two uses of randomness in a race share a sequence.

    Example:
        >>> stream(0, "batches") == stream(0, "batches"), stream(0, "batches") == stream(1, "batches")
        (True, False)
    """
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


class BatchOrder:
    """Which samples the next batch holds: every sample once an epoch, in an order drawn anew each epoch.

    The batch size is given with each call and may change within an epoch. An epoch ends with a batch of what is left;
    what would be too few for the model goes along with the batch before.

    Args:
        size: number of training samples.
        seed: of the order.
        device: where the indices live.
        fewest: samples the model needs in a batch.

    Example:
        >>> order = BatchOrder(5, seed=0)
        >>> [len(order.take(2)) for _ in range(4)], order.epoch
        ([2, 2, 1, 2], 1)
    """

    def __init__(self, size: int, seed: int, device: torch.device | None = None, fewest: int = 1) -> None:
        self.size, self.epoch, self.offset = size, 0, 0
        self._fewest = fewest
        self._device = device or torch.device("cpu")
        self._generator = torch.Generator().manual_seed(stream(seed, "batches"))
        self._before = self._generator.get_state()
        self._order: Tensor | None = None

    def take(self, count: int) -> Tensor:
        """Indices of the next batch, int64 [at most count, or a few more at the end of an epoch]."""
        if self._order is None:
            self._before = self._generator.get_state()
            self._order = torch.randperm(self.size, generator=self._generator).to(self._device)
        end = self.offset + count
        batch = self._order[self.offset : self.size if self.size - end < self._fewest else end]
        self.offset += len(batch)
        if self.offset >= self.size:
            self.epoch, self.offset, self._order = self.epoch + 1, 0, None
            self._before = self._generator.get_state()
        return batch

    def remaining(self, count: int, epochs: int) -> int:
        """How many batches of `count` are left until `epochs` epochs are over."""
        if self.epoch >= epochs:
            return 0
        return self._batches(self.size - self.offset, count) + (epochs - self.epoch - 1) * self._batches(
            self.size, count
        )

    def _batches(self, samples: int, count: int) -> int:
        whole, rest = divmod(samples, count)
        return max(1, whole + (rest >= self._fewest))

    @property
    def seen(self) -> float:
        """Epochs done, with fraction."""
        return self.epoch + self.offset / self.size

    def state(self) -> tuple[dict[str, int], Tensor]:
        """Where the order stands: plain numbers, and the generator's state at the beginning of this epoch (uint8)."""
        return {"size": self.size, "epoch": self.epoch, "offset": self.offset}, self._before.clone()

    def restore(self, numbers: dict[str, int], generator: Tensor) -> None:
        """Continue exactly where `state` was taken."""
        self._generator.set_state(generator.clone())
        self._before = generator.clone()
        self.epoch, self.offset, self._order = numbers["epoch"], numbers["offset"], None
        if self.offset:
            self._order = torch.randperm(self.size, generator=self._generator).to(self._device)
