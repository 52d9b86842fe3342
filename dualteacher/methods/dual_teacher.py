"""Dual Teacher (Na et al., NeurIPS 2023): two temporary teachers that take turns by epoch."""

from dualteacher.methods.switching import Switching

METHOD = Switching
