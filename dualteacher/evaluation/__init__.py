"""Scores, galleries and model cards of trained networks."""
