"""Support for Snakemake and DVC: stage contracts, source lists, presets, reference pages."""
