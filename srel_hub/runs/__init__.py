"""Run directories and the processes that work in them: marks, claims, checkpoints, logs."""
