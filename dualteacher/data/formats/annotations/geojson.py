"""GeoJSON polygons over GeoTIFF images, in the images' own coordinate reference system."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import tifffile

from dualteacher.data.formats.annotations.shapes import Annotated, Annotations, Shape, Wrong, ring
from dualteacher.system.errors import UserError

LABELS = ("class", "class_name", "label", "category")  # properties that name a feature's class
WGS84 = 4326  # RFC 7946, section 4: without `crs`, coordinates are longitude and latitude
SCALE, TIEPOINT, TRANSFORMATION, KEYS = 33550, 33922, 34264, 34735  # GeoTIFF 1.1, OGC 19-008r4, section 7.1.1
GEOGRAPHIC, PROJECTED, RASTER_TYPE, PIXEL_IS_POINT = 2048, 3072, 1025, 2


class Reference(NamedTuple):
    """Where a GeoTIFF lies."""

    image: str
    size: tuple[int, int]  # H, W
    epsg: int | None
    to_pixels: np.ndarray  # (2, 3): (x, y, 1) of the reference system → pixels, from the corner of the first


def new() -> Annotations:
    return Annotations("geojson", "GeoJSON", smaller_on_top=True, labels_ordered=False)


def is_geojson(content: Any) -> bool:
    return isinstance(content, dict) and content.get("type") == "FeatureCollection"


class Reader:
    """Reads files for the images below a folder."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    @cached_property
    def references(self) -> list[Reference]:
        tiffs = [name for name in self.names if name.lower().endswith((".tif", ".tiff"))]
        return [found for name in tiffs if (found := _reference(self.root / name, name)) is not None]

    def add(self, into: Annotations, content: dict[str, Any], source: str) -> None:
        """Add a file's features to every image that they touch; several files may be layers of the same images."""
        where, epsg = self.root / source, _epsg(content)
        if not self.references:
            raise UserError(
                f"{where}: map coordinates need GeoTIFF images, but no image in the folder has a georeference"
            )
        if strange := [found for found in self.references if found.epsg != epsg]:
            other = f"EPSG:{strange[0].epsg}" if strange[0].epsg else "not known by an EPSG code"
            raise UserError(
                f"{where}: its coordinates are EPSG:{epsg}, but the reference system of {strange[0].image} is {other};"
                " reproject one of them (ogr2ogr -t_srs, QGIS)"
            )
        present = {entry.name: entry for entry in into.images}
        features = list(_features(into, content, PurePosixPath(source).stem))
        into.add_labels([label for label, _ in features])
        for found in self.references:
            shapes = [shape for label, polygons in features if (shape := _shape(found, label, polygons)) is not None]
            if found.image in present:
                present[found.image].shapes.extend(shapes)
            elif shapes:
                into.images.append(Annotated(found.image, source, shapes, found.size))


def _reference(path: Path, name: str) -> Reference | None:
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            tags = {code: page.tags.valueof(code) for code in (SCALE, TIEPOINT, TRANSFORMATION, KEYS)}
            size = (int(page.imagelength), int(page.imagewidth))  # type: ignore[union-attr]
    except (OSError, ValueError, tifffile.TiffFileError):
        return None  # check-data reports damaged images
    if tags[KEYS] is None or (tags[TRANSFORMATION] is None and None in (tags[SCALE], tags[TIEPOINT])):
        return None
    keys = {key: value for key, place, _, value in np.reshape(tags[KEYS], (-1, 4))[1:].tolist() if place == 0}
    if tags[TRANSFORMATION] is not None:
        forward = np.reshape(tags[TRANSFORMATION], (4, 4))[[0, 1, 3]][:, [0, 1, 3]]
    else:
        (across, down), (column, row, _, x, y) = tags[SCALE][:2], tags[TIEPOINT][:5]
        forward = np.array([[across, 0, x - across * column], [0, -down, y + down * row], [0, 0, 1]], float)
    inverse = np.linalg.inv(forward)[:2]
    inverse[:, 2] += 0.5 * (keys.get(RASTER_TYPE) == PIXEL_IS_POINT)
    epsg = keys.get(PROJECTED, keys.get(GEOGRAPHIC))
    return Reference(name, size, epsg if epsg and epsg < 32767 else None, inverse)


def _epsg(content: dict[str, Any]) -> int:
    name = str(((content.get("crs") or {}).get("properties") or {}).get("name") or "CRS84")
    if name.endswith("CRS84"):
        return WGS84
    found = re.search(r"EPSG:+(?:[\d.]*:)?(\d+)$", name)
    if found is None:
        raise Wrong(f"its reference system, {name}, is not given by an EPSG code")
    return int(found[1])


def _features(into: Annotations, content: dict[str, Any], layer: str) -> Iterator[tuple[str, list[list[np.ndarray]]]]:
    """(class, polygons of rings). The class is a property, or the name of the file, which then is a layer."""
    for feature in content["features"]:
        properties = {key.lower(): value for key, value in (feature.get("properties") or {}).items()}
        label = next((str(properties[key]) for key in LABELS if properties.get(key) is not None), layer)
        geometry = feature.get("geometry") or {"type": "none"}
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            into.left_out[f"features of type {geometry['type']}"] += 1
            continue
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        rings = [[ring([corner[:2] for corner in corners]) for corners in part] for part in parts]
        polygons = [[corners for corners in part if corners is not None] for part in rings]
        if polygons := [part for part in polygons if part]:
            yield label, polygons


def _shape(found: Reference, label: str, polygons: list[list[np.ndarray]]) -> Shape | None:
    """In pixels; None if it lies outside the image."""
    turn, shift = found.to_pixels[:, :2].T, found.to_pixels[:, 2]
    moved = [[corners @ turn + shift for corners in part] for part in polygons]
    corners = np.concatenate([corners for part in moved for corners in part])
    inside = (corners.max(0) > 0).all() and (corners.min(0) < found.size[::-1]).all()
    return Shape(label, moved) if inside else None
