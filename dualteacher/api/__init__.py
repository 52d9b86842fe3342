"""The Python API, in the package's own namespace: `dualteacher.load`, `dualteacher.train`; see docs/python.md."""
