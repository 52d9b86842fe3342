"""Download and verify a dataset's archives and official lists; write the manifest."""

from __future__ import annotations

import logging

from dualteacher.data import sources
from dualteacher.data.fetch import manifest
from dualteacher.settings import Settings
from dualteacher.system import paths

logger = logging.getLogger(__name__)


def run(settings: Settings, dataset: str) -> None:
    """Write the manifest. If the archives are already present, only hash them, without network access."""
    place = paths.Dataset(dataset)
    manifest.borrow(place.raw)
    archives = sources.choose(settings.datasets[dataset]).archives()
    fetched = [archive.fetch(place.raw) for archive in archives]
    manifest.write(place.manifest, archives, fetched)
    for path in fetched:
        if path.is_dir():
            logger.info("%s: your own folder, used in place", path)
        else:
            logger.info("%s: %.1f MB, verified", path, path.stat().st_size / 1e6)
