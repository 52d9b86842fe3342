"""The training loop: checkpoints, per-epoch measurements, alarms and progress reports."""
