"""Whether a run is worse than a baseline."""
