"""Published files: fetched once, verified, read without unpacking.

http.py downloads, wheel.py asks pip, manifest.py records what was fetched, archives.py reads zips, tars and folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Archive(Protocol):
    """A published file or folder: how to get it and how to name it in the manifest."""

    def fetch(self, folder: Path) -> Path:
        """The verified file's path: in `folder`, or elsewhere if the user already has it."""
        ...

    def describe(self) -> dict[str, str]:
        """Its origin for the manifest: package and version, address, …"""
        ...
