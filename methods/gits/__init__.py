"""GITS: timesteps by dynamic programming over warm-up trajectories."""
