"""The device, the processes and the signals of a run."""
