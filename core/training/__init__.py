"""The trainer process: the loop, its optimiser, schedule, metrics, checkpoints, control and evaluation."""
