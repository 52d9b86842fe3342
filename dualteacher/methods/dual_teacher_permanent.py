"""Ablation of Dual Teacher: teachers take turns but are never made anew; its settings say so."""

from dualteacher.methods.switching import Switching

METHOD = Switching
