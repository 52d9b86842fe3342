"""Ablation of Dual Teacher: without implicit consistency; its settings say so."""

from dualteacher.methods.switching import Switching

METHOD = Switching
