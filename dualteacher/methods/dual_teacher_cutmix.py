"""Ablation of Dual Teacher: CutMix for both teachers; its settings say so."""

from dualteacher.methods.switching import Switching

METHOD = Switching
