"""Charts, coordinates, basis paths, and counts, norms and top-k of all paths."""
