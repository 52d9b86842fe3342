"""GeoPackages and Shapefiles, read by pyogrio (GDAL) into the form of GeoJSON; the extra `geo`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dualteacher.data.formats.annotations.geojson import LABELS
from dualteacher.data.formats.annotations.shapes import Annotations
from dualteacher.system.errors import UserError

SUFFIXES = (".gpkg", ".shp")


def new() -> Annotations:
    return Annotations("geopackage", "GeoPackage or Shapefile", smaller_on_top=True, labels_ordered=False)


def read(root: Path, source: str) -> dict[str, Any]:
    """All layers as one FeatureCollection; a feature without a class is of its layer's. UserError if unreadable."""
    path = root / source
    if not all(map(importlib.util.find_spec, ("pyogrio", "shapely"))):
        raise UserError(f"{path}: reading it needs two more packages: `pip install pyogrio shapely`")
    import pyogrio

    try:
        names = [name for name, kind in pyogrio.list_layers(path) if kind is not None]  # others are tables
        layers = [_layer(path, name) for name in names]
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    systems = sorted({str(crs) for crs, _ in layers})
    if len(systems) != 1 or systems == ["None"]:
        said = " and ".join(systems).replace("None", "none") or "no layer with geometries"
        raise UserError(f"{path}: its layers need one reference system, but have {said}")
    features = [feature for _, found in layers for feature in found]
    return {"type": "FeatureCollection", "crs": {"properties": {"name": systems[0]}}, "features": features}


def _layer(path: Path, name: str) -> tuple[str | None, list[dict[str, Any]]]:
    """(reference system, features)."""
    import shapely
    from pyogrio import raw

    options = {"IMMUTABLE": "YES"} if path.suffix.lower() == ".gpkg" else {}  # leaves no -wal and -shm files
    meta, _, encoded, columns = raw.read(path, layer=name, **options)
    fields = [field.lower() for field in meta["fields"]]
    wanted = [columns[fields.index(label)] for label in LABELS if label in fields]
    shapes = shapely.from_wkb(encoded, on_invalid="ignore")
    features = [
        {"properties": {"label": label}, "geometry": None if shape is None else shapely.geometry.mapping(shape)}
        for shape, label in zip(shapes, _labels(wanted, len(shapes), name), strict=True)
    ]
    return meta["crs"], features


def _labels(columns: list[np.ndarray], number: int, layer: str) -> Iterator[str]:
    """The first value that is set, else the layer; whole numbers without a point."""
    for i in range(number):
        value = next((column[i] for column in columns if column[i] is not None and column[i] == column[i]), layer)
        yield str(int(value) if isinstance(value, np.floating) and value == int(value) else value)
