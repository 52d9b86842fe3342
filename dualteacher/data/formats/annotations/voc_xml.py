"""XML of one `annotation` per image whose objects have polygons: Roboflow's PASCAL VOC, and MIT's LabelMe."""

from __future__ import annotations

from xml.etree import ElementTree

from dualteacher.data.formats.annotations.shapes import Annotated, Annotations, Shape, Size, Wrong, ring

Element = ElementTree.Element


def new() -> Annotations:
    return Annotations("voc-xml", "PASCAL VOC XML", smaller_on_top=False, labels_ordered=False)


def is_annotation(content: object) -> bool:
    return isinstance(content, Element) and content.tag == "annotation"


def has_polygons(root: Element) -> bool:
    """Without, it is PASCAL VOC proper: boxes only."""
    return is_annotation(root) and root.find("object/polygon") is not None


def add(into: Annotations, root: Element, source: str) -> None:
    """Read a file. Boxes have no area of their own."""
    shapes = []
    for entry in root.iterfind("object"):
        if (entry.findtext("deleted") or "0").strip() == "1":
            continue
        corners = [_corners(polygon) for polygon in entry.iterfind("polygon")]
        polygons = [[one] for values in corners if (one := ring(values)) is not None]
        if polygons:
            shapes.append(Shape(_text(entry, "name"), polygons))
        else:
            into.left_out["boxes" if entry.find("bndbox") is not None else "objects without a polygon"] += 1
    into.add_labels([shape.label for shape in shapes])
    name = _text(root, "filename").replace("\\", "/")
    into.images.append(Annotated(name, source, shapes, _size(root)))


def _text(entry: Element, key: str) -> str:
    text = (entry.findtext(key) or "").strip()
    if not text:
        raise Wrong(f"an <{entry.tag}> has no <{key}>")
    return text


def _corners(polygon: Element) -> list[float]:
    """x, y, x, y, … from <pt><x/><y/></pt>, or from <x1/><y1/><x2/><y2/>."""
    points = polygon.findall("pt")
    if points:
        return [float(_text(point, axis)) for point in points for axis in "xy"]
    count = len(list(polygon)) // 2
    return [float(_text(polygon, f"{axis}{number}")) for number in range(1, count + 1) for axis in "xy"]


def _size(root: Element) -> Size | None:
    for height, width in (("size/height", "size/width"), ("imagesize/nrows", "imagesize/ncols")):
        found = int(root.findtext(height) or 0), int(root.findtext(width) or 0)
        if min(found) > 0:
            return found
    return None
