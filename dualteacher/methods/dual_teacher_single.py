"""Ablation of Dual Teacher: one temporary teacher, a copy of the student at each epoch's start; its settings say so."""

from dualteacher.methods.switching import Switching

METHOD = Switching
