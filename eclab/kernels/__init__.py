"""The path core on a device: row sums, chains and the update of the EC step (theory §2–4)."""
