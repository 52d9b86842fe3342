"""Find the annotation files in a folder and read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dualteacher.data.formats import folder_files
from dualteacher.data.formats.annotations import coco, cvat, geojson, label_studio, labelme, vector_files, voc_xml, yolo
from dualteacher.data.formats.annotations.shapes import Annotations
from dualteacher.system.errors import UserError

Format = tuple[Callable[[Any], bool], Callable[[], Annotations], Callable[[Annotations, Any, str], None]]
JSON: list[Format] = [
    (coco.is_coco, coco.new, coco.add),
    (labelme.is_labelme, labelme.new, labelme.add),
    (label_studio.is_label_studio, label_studio.new, label_studio.add),
]
XML: list[Format] = [(cvat.is_cvat, cvat.new, cvat.add), (voc_xml.has_polygons, voc_xml.new, voc_xml.add)]


SUFFIXES = (".json", ".geojson", ".xml", ".txt", *vector_files.SUFFIXES)


def candidates(root: Path) -> list[str]:
    """All files below `root` that may hold annotations."""
    return sorted(name for suffix in SUFFIXES for name in folder_files.with_suffix(root, suffix))


def read(root: Path, names: Sequence[str]) -> Annotations | None:
    """The annotations of one format below `root`; UserError for damaged files, or for several formats at once."""
    found: dict[str, Annotations] = {}
    others: list[str] = []
    in_map_units = geojson.Reader(root, names).add
    json_formats = [*JSON, (geojson.is_geojson, geojson.new, in_map_units)]
    sources = [(name, json_formats, _json) for name in folder_files.with_suffix(root, ".json")]
    sources += [(name, json_formats, _json) for name in folder_files.with_suffix(root, ".geojson")]
    sources += [(name, XML, _xml) for name in folder_files.with_suffix(root, ".xml")]
    vector: list[Format] = [(geojson.is_geojson, vector_files.new, in_map_units)]
    for suffix in vector_files.SUFFIXES:
        sources += [(name, vector, vector_files.read) for name in folder_files.with_suffix(root, suffix)]
    for source, formats, parse in sources:
        content = parse(root, source)
        for fits, new, add in formats:
            if fits(content):
                one = new()
                one = found.setdefault(one.key, one)
                _add(
                    root,
                    source,
                    one,
                    partial(add, one, content, source),
                )
                break
        else:
            others += [f"{source} {reason}" for reason in [_not_supported(content)] if reason]
    _add_yolo(root, names, found)
    if len(found) > 1:
        shown = " and ".join(f"{one.title} ({one.sources[0]})" for one in found.values())
        raise UserError(f"{root}: annotations in several formats, {shown}: leave one of them in the folder")
    if not found and others:
        raise UserError(f"{root}: no masks found, and {others[0]}")
    for one in found.values():
        if not one.labels_ordered:
            one.labels.sort()
    return next(iter(found.values()), None)


def _not_supported(content: Any) -> str | None:
    """Why a known kind of file is of no use."""
    if voc_xml.is_annotation(content):
        return (
            "is PASCAL VOC XML, which holds boxes only, and a box does not say which of its pixels are the object's:"
            " use the masks in SegmentationClass, or export polygons"
        )
    return None


def _json(root: Path, source: str) -> Any:
    try:
        return json.loads((root / source).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{root / source}: cannot be read as JSON: {error}") from None


def _xml(root: Path, source: str) -> Any:
    try:
        return ElementTree.fromstring((root / source).read_bytes())
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{root / source}: cannot be read as XML: {error}") from None


def _add(root: Path, source: str, one: Annotations, read: Callable[[], None]) -> None:
    """Read a file into `one`; UserError in one line if it is damaged."""
    try:
        read()
    except KeyError as error:
        raise UserError(f"{root / source}: not a complete {one.title} file: no {error}") from None
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{root / source}: not a valid {one.title} file: {error}") from None
    one.sources.append(source)


def _add_yolo(root: Path, names: Sequence[str], found: dict[str, Annotations]) -> None:
    pairs = yolo.label_files(names, folder_files.with_suffix(root, ".txt"))
    try:
        texts = {name: (root / source).read_text(encoding="utf-8-sig") for name, source in pairs.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{root}: a text file beside the images cannot be read: {error}") from None
    if not any(yolo.is_yolo(text) for text in texts.values()):
        return
    one = found.setdefault("yolo", yolo.new())
    listed, origin = yolo.class_names(root)
    one.add_labels([listed[number] for number in sorted(listed)])
    for name, text in texts.items():
        _add(root, pairs[name], one, partial(yolo.add, one, text, pairs[name], name, listed))
    if not listed:
        used = {shape.label for image in one.images for shape in image.shapes}
        one.add_labels(sorted(used, key=lambda label: int(label.removeprefix("class_"))))
    if origin is not None:
        one.sources.append(origin)
