"""What surrounds the steps of a run: checkpoints, averages, NaNs, interruption."""
