"""Ablation of Dual Teacher: three temporary teachers; its settings say so."""

from dualteacher.methods.switching import Switching

METHOD = Switching
