"""Choose unlabelled images to label next (`suggest`) and write them out with pseudo-masks to start from."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dualteacher import settings as typed
from dualteacher.core import seeds
from dualteacher.core.labels import IGNORE
from dualteacher.data import partition as rules
from dualteacher.data.pack import ClassInfo, Pack, class_table
from dualteacher.labelling import choice, coco
from dualteacher.labelling.observe import VIEWS, Observer
from dualteacher.machine.device import setup
from dualteacher.models import saved
from dualteacher.settings import Settings
from dualteacher.system import files, paths
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError
from dualteacher.training import committee

SHORTLIST = 3  # mixed: so many times the count, by uncertainty, are what diversity chooses from
RECORD, TABLE, COCO = "suggest.json", "suggested.csv", "annotations.json"


@dataclass
class Chosen:
    """Rows of the pack, most wanted first, the figures that led there by name, and how they were made."""

    rows: list[int]
    figures: dict[str, np.ndarray] = field(default_factory=dict)
    how: str = ""


def run(settings: Settings, cell: paths.Cell, count: int, by: str, output: Path, threshold: float) -> None:
    """Write `count` images, their pseudo-masks and what was thought of them into `output`, which must be new.

    threshold: pixels less sure than this are 255 in the pseudo-masks and in no polygon.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: is there already; name another folder, or remove it")
    device = setup(settings.runtime)
    model, description = saved.load(cell.student)
    pack, roles = open_data(cell, description)
    unlabelled = [pack.index(name) for name in roles.unlabelled]
    labelled = [pack.index(name) for name in (*roles.labelled, *roles.held_out)]
    if count > len(unlabelled):
        raise UserError(f"--count {count}: the partition leaves only {len(unlabelled)} images unlabelled")
    observer = Observer(model.to(device), pack, typed.Inference.model_validate(description["inference"]), device)
    chosen = choose(observer, cell, unlabelled, labelled, count, by)
    write(output, observer, chosen, threshold)
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
    files.write_json(output / RECORD, record)
    logger.info("%s: %d of %d unlabelled images, by %s", output, count, len(unlabelled), chosen.how)


def open_data(cell: paths.Cell, description: dict[str, Any]) -> tuple[Pack, rules.Roles]:
    """The training images and who is labelled; UserError unless they are those that the network was trained on."""
    table = paths.Partition(cell.dataset, cell.partition, cell.seed).table
    pack, roles = Pack(paths.Dataset(cell.dataset).train), rules.read(table)
    names = [entry["name"] for entry in description["classes"]]
    if files.sha256(table) != description["partition_sha256"] or names != [info.name for info in pack.classes]:
        raise UserError(f"{cell.student}: {table} or its images have changed since; train it again")
    return pack, roles


def choose(
    observer: Observer, cell: paths.Cell, unlabelled: Sequence[int], labelled: Sequence[int], count: int, by: str
) -> Chosen:
    """The images to label next; `by` as the command line has it."""
    rows = np.array(unlabelled)
    if by == "random":
        order = seeds.generator(cell.seed, "suggest").permutation(len(rows))[:count]
        return Chosen(rows[order].tolist(), how="chance")
    if by == "disagreement":
        networks, kind = committee.load(cell, observer.model)
        for network in networks:
            network.to(observer.device)
        how = f"disagreement of {committee.describe(networks, kind)}"
        if not networks:
            logger.warning("no teachers of this run are here (%s): its student's views stand in", cell.committee)
            how = f"disagreement of {len(VIEWS)} views (scaled, mirrored) of the student"
        scores = observer.disagreement(unlabelled, networks)
        first = choice.highest(scores, count)
        return Chosen(rows[first].tolist(), {"disagreement": scores[first]}, how)
    how, shortlist = "diversity (k-centre of pooled features)", np.arange(len(rows))
    if by != "diversity":
        scores = observer.uncertainty(unlabelled)
        shortlist = choice.highest(scores, count * (SHORTLIST if by == "mixed" else 1))
        if by == "uncertainty":
            return Chosen(rows[shortlist].tolist(), how="uncertainty (mean of 1 - confidence)")
        how = f"diversity among the {len(shortlist)} most uncertain"
    centres = observer.features(labelled)
    places, distances = choice.k_centre(observer.features(rows[shortlist].tolist()), centres, count)
    return Chosen(rows[shortlist][places].tolist(), {"distance": distances}, how)


def write(output: Path, observer: Observer, chosen: Chosen, threshold: float) -> None:
    """The images as they are stored, index masks with a palette, COCO annotations, class lists and the table."""
    pack, classes = observer.pack, observer.pack.classes
    table: list[dict[str, Any]] = []
    documents: list[tuple[str, np.ndarray]] = []
    for rank, (row, (label, confidence)) in enumerate(
        zip(chosen.rows, observer.labels(chosen.rows), strict=True), start=1
    ):
        name, data = pack.ids[row], pack.encoded(row).to_pybytes()
        mask = np.where(confidence >= threshold, label, IGNORE).astype(np.uint8)
        image = f"{name}{'.jpg' if data.startswith(bytes([0xFF, 0xD8])) else '.png'}"
        files.write_bytes(output / "images" / image, data)
        files.write_bytes(output / "masks" / f"{name}.png", palette_png(mask, classes))
        documents.append((image, mask))
        figures = {"uncertainty": 1 - float(confidence.mean())}
        figures |= {key: float(values[rank - 1]) for key, values in chosen.figures.items()}
        written = {key: f"{value:.6f}" for key, value in figures.items()}
        table.append({"rank": rank, "image_id": name, "image": image, **written, "mask_sha256": mask_hash(mask)})
    files.write_json(output / COCO, coco.document(classes, documents))
    files.write_json(output / "classes.json", class_table(classes))
    labels = [{"name": c.name, "color": "#{:02x}{:02x}{:02x}".format(*c.color), "attributes": []} for c in classes]
    files.write_json(output / "cvat_labels.json", labels)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    files.write_text(output / TABLE, text.getvalue())


def palette_png(mask: np.ndarray, classes: Sequence[ClassInfo]) -> bytes:
    """Class indices with the classes' colours; 255 is shown white."""
    palette = np.zeros((256, 3), np.uint8)
    palette[IGNORE] = 255
    palette[: len(classes)] = [info.color for info in classes]
    picture, file = Image.fromarray(mask), io.BytesIO()
    picture.putpalette(palette.tobytes())
    picture.save(file, "PNG")
    return file.getvalue()


def mask_hash(mask: np.ndarray) -> str:
    """What tells a mask that somebody corrected from one that nobody touched, however its file was saved."""
    return hashlib.sha256(repr(mask.shape).encode() + np.ascontiguousarray(mask, np.int32).tobytes()).hexdigest()
