"""Commands that are not stages of the pipeline, one file each."""
