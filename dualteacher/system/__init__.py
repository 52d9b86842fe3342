"""Files, paths, errors and logs, used by all other packages."""
