"""The networks that took part in a run beside its student, kept for `suggest`: it asks where they disagree.

They are no outputs of the pipeline: nothing is lost where they are missing, and both engines would copy them. So they
lie with the checkpoints, as large as the student each.
"""

from __future__ import annotations

from collections.abc import Sequence

from dualteacher.methods.base import Method
from dualteacher.models import saved
from dualteacher.models.segmenter import Segmenter
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError


def members(method: Method) -> list[Segmenter]:
    """Two teachers or more, or the networks that were trained beside the student; one teacher is no committee."""
    return method.teachers if len(method.teachers) > 1 else method.partners


def keep(cell: paths.Cell, method: Method) -> None:
    """Write the members as they are at the end of training; earlier ones of this cell go. After the student."""
    for path in cell.committee.glob("*.safetensors"):
        path.unlink()
    mark = files.sha256(cell.student) if members(method) else ""
    for number, network in enumerate(members(method)):
        description = {"student_sha256": mark, "teacher": network in method.teachers}
        saved.save(cell.committee / f"{number}.safetensors", network, description)


def load(cell: paths.Cell, student: Segmenter) -> tuple[list[Segmenter], str]:
    """(networks in eval mode, what they are): the two teachers, or the student and its partners.

    An empty list where a method has none of them, or where those of this very student are not here.
    """
    networks: list[Segmenter] = []
    teachers = True
    mark = files.sha256(cell.student)
    try:
        for path in sorted(cell.committee.glob("*.safetensors")):
            network, description = saved.load(path)
            if description.get("student_sha256") != mark:
                return [], ""
            teachers = bool(description["teacher"])
            networks.append(network)
    except (UserError, KeyError):
        return [], ""
    if not networks:
        return [], ""
    return (networks, "teachers") if teachers else ([student, *networks], "student and partners")


def describe(networks: Sequence[Segmenter], kind: str) -> str:
    """«2 teachers»."""
    return f"{len(networks)} {kind}" if kind == "teachers" else kind
