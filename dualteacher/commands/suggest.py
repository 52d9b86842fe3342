"""Choose unlabelled images to label next and write them with pseudo-masks (`suggest`)."""

from __future__ import annotations

from pathlib import Path

from dualteacher.data import class_table
from dualteacher.labelling import selection, suggestion
from dualteacher.labelling.observe import Observer
from dualteacher.machine.device import setup
from dualteacher.models import saved
from dualteacher.settings import Inference, Settings
from dualteacher.system import files, paths
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError


def run(settings: Settings, cell: paths.Cell, count: int, by: str, output: Path, threshold: float) -> None:
    """Write `count` images and their pseudo-masks to the new folder `output`.

    threshold: pixels with lower confidence become 255 in the pseudo-masks.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: already exists; choose another folder, or remove it")
    files.check_folder(output)
    device = setup(settings.runtime)
    model, description = saved.load(cell.student)
    pack, roles = selection.open_data(cell, description)
    unlabelled = [pack.index(name) for name in roles.unlabelled]
    labelled = [pack.index(name) for name in (*roles.labelled, *roles.held_out)]
    if count > len(unlabelled):
        raise UserError(f"--count {count}: the partition has only {len(unlabelled)} unlabelled images")
    observer = Observer(model.to(device), pack, Inference.model_validate(description["inference"]), device)
    chosen = selection.choose(observer, cell, unlabelled, labelled, count, by)
    record = {
        "cell": description["cell"],
        "weights_sha256": files.sha256(cell.student),
        "partition_sha256": description["partition_sha256"],
        "by": by,
        "how": chosen.how,
        "count": count,
        "of": len(unlabelled),
        "threshold": threshold,
    }
    suggestion.write(output, observer, class_table.read(cell.dataset), chosen, threshold, record)
    logger.info("%s: %d of %d unlabelled images, chosen by %s", output, count, len(unlabelled), chosen.how)
