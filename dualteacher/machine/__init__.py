"""Devices, processes, signals and GPU sharing."""
