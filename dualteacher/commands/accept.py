"""Add corrected masks to your own folder (`accept`), the counterpart of `suggest`."""

from __future__ import annotations

from pathlib import Path

from dualteacher.labelling import acceptance, corrected, suggestion
from dualteacher.settings import Settings
from dualteacher.system.console import logger


def run(settings: Settings, suggested: Path, from_coco: Path | None, unchanged: bool) -> None:
    """Take the masks from `suggested`/masks, or from a COCO file, and print what was done."""
    made = suggestion.read(suggested)
    wanted = acceptance.target_folder(settings, made)
    if from_coco is not None:
        read = corrected.coco_reader(from_coco, made)
    else:
        read = corrected.png_reader(suggested / "masks", made)
    done = acceptance.accept(wanted, made, read, unchanged)
    logger.info("%s: %d masks added, %d already there", wanted.folder, done.added, done.already_there)
    if done.validation_before != done.validation_after:
        logger.warning(
            "validation is now %d images (%s): scores are not comparable with earlier ones;"
            " a separate validation folder avoids this",
            len(done.validation_after), _changes(done.validation_before, done.validation_after),
        )  # fmt: skip
    if done.unchanged:
        logger.warning("%d masks skipped: still the pseudo-masks; --unchanged takes them too", done.unchanged)


def _changes(before: set[str], after: set[str]) -> str:
    """«added: a, b, c, …; moved to training: d»."""
    changes = {"added": sorted(after - before), "moved to training": sorted(before - after)}
    return "; ".join(
        f"{what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}" for what, names in changes.items() if names
    )
