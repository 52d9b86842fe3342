"""Predicting whole images and scoring them."""
