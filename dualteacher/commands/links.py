"""List the files behind a link inside the watched folder, so that DVC sees their changes (`download --link`)."""

from __future__ import annotations

from pathlib import Path

from dualteacher.settings import Settings
from dualteacher.system import files, walk
from dualteacher.system.errors import UserError


def run(settings: Settings, name: str) -> None:
    """Write the list into the watched folder, on which the download stage depends.

    DVC hashes the folder behind the link, a dependency of the stage that calls this.
    """
    if name not in settings.links:
        raise UserError(f"--link {name}: params.yaml has no such entry under `links`")
    folder = Path(settings.links[name])
    if not folder.is_dir():
        raise UserError(f"links.{name}: {folder}: no such folder; correct params.yaml, or run `init` again")
    files.write_bytes(Path(settings.watched) / walk.BEHIND_LINKS / f"{name}.txt", walk.encoded(walk.listing(folder)))
