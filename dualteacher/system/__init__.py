"""Files, paths, errors, logs: what every other room stands on."""
