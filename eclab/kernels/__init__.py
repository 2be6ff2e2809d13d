"""The path core on a device: row sums, chains and the update of the EC step (theory §2–4)."""

from eclab.kernels.choice import backend, step

__all__ = ["backend", "step"]
