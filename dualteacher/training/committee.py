"""A run's committee for `suggest`: the networks trained beside the student, or its teachers.

Each is as large as the student. They are stored with the checkpoints, not as pipeline outputs: nothing depends on
them, and both engines would copy them.
"""

from __future__ import annotations

from collections.abc import Sequence

from dualteacher.methods.base import Method
from dualteacher.models import saved
from dualteacher.models.segmenter import Segmenter
from dualteacher.system import files, paths
from dualteacher.system.errors import UserError


def members(method: Method) -> list[Segmenter]:
    """The teachers if there are two or more, else the partners."""
    return method.teachers if len(method.teachers) > 1 else method.partners


def keep(cell: paths.Cell, method: Method) -> None:
    """Save the members at the end of training, replacing earlier ones. Call after saving the student."""
    for path in cell.committee.glob("*.safetensors"):
        path.unlink()
    mark = files.sha256(cell.student) if members(method) else ""
    for number, network in enumerate(members(method)):
        description = {"student_sha256": mark, "teacher": network in method.teachers}
        saved.save(cell.committee / f"{number}.safetensors", network, description)


def load(cell: paths.Cell, student: Segmenter) -> tuple[list[Segmenter], str]:
    """(networks in eval mode, kind): the teachers, or the student and its partners.

    Returns ([], "") if the method has no committee, or if the saved one does not belong to this student.
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
    """For example "2 teachers"."""
    return f"{len(networks)} {kind}" if kind == "teachers" else kind
