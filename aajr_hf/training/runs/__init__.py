"""Support for the steps of a run: checkpoints, averages, NaNs, interruption."""
