"""Predict the user's images: find and read them, run the network, write and record the outputs."""
