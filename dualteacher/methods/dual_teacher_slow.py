"""Ablation of Dual Teacher: a slower EMA; its settings say so."""

from dualteacher.methods.switching import Switching

METHOD = Switching
