"""Names and colours of the classes that a network tells apart, in a file next to its weights.

The weights file of a run has none, so that a new name needs no training. `evaluate` writes student.classes.json, with
the hash of the weights it belongs to. A file written by `Model.save` has them inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualteacher.data import class_table
from dualteacher.models import saved
from dualteacher.models.segmenter import Segmenter
from dualteacher.system import files, paths, sealed
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError


def write(weights: Path, sha256: str, classes: Sequence[dict[str, Any]]) -> None:
    """Write the class table of a weights file with this hash."""
    sealed.write_json(paths.class_table_of(weights), {"weights_sha256": sha256, "classes": list(classes)})


def load(path: Path) -> tuple[Segmenter, dict[str, Any]]:
    """`saved.load`, with `classes` in the description; "class 0", … and a warning if nothing tells them."""
    segmenter, description = saved.load(path)
    if (beside := _beside(path)) is not None:
        description["classes"] = beside
    elif "classes" not in description:
        logger.warning(
            "%s: no class names, as %s is missing or belongs to other weights; run the evaluate stage, or copy both"
            " files", path, paths.class_table_of(path).name,
        )  # fmt: skip
        description["classes"] = class_table.as_json(class_table.unnamed(segmenter.num_classes))
    return segmenter, description


def _beside(path: Path) -> list[dict[str, Any]] | None:
    """The class table next to a weights file; None if there is none, or one of other weights."""
    table = paths.class_table_of(path)
    try:
        found = sealed.read_json(table)
        if found["weights_sha256"] != files.sha256(path):
            return None
        return class_table.as_json(class_table.of_json(found["classes"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{table}: not a valid class table ({error!r}); delete it and run `evaluate` again") from None
