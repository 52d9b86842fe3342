"""Predicting people's own images: what is found, read in pieces, predicted, written and remembered."""
