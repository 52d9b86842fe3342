"""The pipeline as both engines see it: contracts, sources, presets, reference pages."""
