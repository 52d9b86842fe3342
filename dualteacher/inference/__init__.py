"""Prediction on whole images."""
