"""Download and verify a dataset's archives and official lists; write the manifest."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from dualteacher.data import sources
from dualteacher.data.fetch import manifest
from dualteacher.data.formats.folder_files import RASTERISED_FOLDER
from dualteacher.settings import Folder, Settings
from dualteacher.system import files, paths, walk

logger = logging.getLogger(__name__)


def run(settings: Settings, dataset: str) -> None:
    """Write the manifest. If the archives are already present, only hash them, without network access."""
    place = paths.Dataset(dataset)
    manifest.borrow(place.raw)
    before = walk.listing(settings.watched)
    _say_unlisted_links(settings, dataset)
    options = settings.datasets[dataset]
    archives = sources.choose(options).archives()
    fetched = [archive.fetch(place.raw) for archive in archives]
    manifest.write(place.manifest, archives, fetched)
    _accept_own_changes(settings.watched, before)
    for path in fetched:
        if path.is_dir():
            logger.info("%s: your own folder, used in place", path)
        elif not isinstance(options, Folder):  # which says itself what it hashed
            logger.info("%s: %.1f MB, verified", path, path.stat().st_size / 1e6)


def _say_unlisted_links(settings: Settings, dataset: str) -> None:
    """Warn of links to folders that DVC does not know of."""
    options = settings.datasets[dataset]
    if not isinstance(options, Folder):
        return
    listed = {Path(path) for path in settings.links.values()}
    if unlisted := [path for path in walk.links(options.folder) if path not in listed]:
        more = f" (and {len(unlisted) - 1} more)" if len(unlisted) > 1 else ""
        logger.warning(
            "%s%s: a link to a folder that is not under `links` in params.yaml, so `dvc repro` does not notice changes"
            " behind it (Snakemake does); add it, or run `init` again",
            unlisted[0],
            more,
        )


def _accept_own_changes(watched: str, before: dict[str, str]) -> None:
    """Masks that this stage made of annotations are no change that reruns it: note them in Snakemake's list."""
    after = walk.listing(watched)
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    made = [path for path in changed if any(part.startswith(RASTERISED_FOLDER) for part in Path(path).parts)]
    listed = paths.OWN_DATA_LIST
    if changed and made == changed and listed.is_file() and listed.read_bytes() == walk.encoded(before):
        status = listed.stat()
        with files.atomic(listed) as temporary:
            temporary.write_bytes(walk.encoded(after))
        os.utime(listed, ns=(status.st_atime_ns, status.st_mtime_ns))
