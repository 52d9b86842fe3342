"""Ablation of Dual Teacher: teachers switch after steps, not epochs; its settings say so."""

from dualteacher.methods.switching import Switching

METHOD = Switching
