"""stats.parquet: pixel counts by image and class, without zeros."""

from __future__ import annotations

import pyarrow as pa

from dualteacher.system import paths, sealed
from dualteacher.system.errors import UserError

COLUMNS = ("split", "image_id", "class_index", "pixels")


def read(place: paths.Dataset) -> pa.Table:
    """The table that `prepare` wrote; UserError if it is missing or damaged."""
    try:
        return sealed.read_table(place.stats)
    except FileNotFoundError:
        raise UserError(f"{place.stats}: no such file; run the prepare stage") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{place.stats}: cannot be read ({error}); delete it and run the prepare stage again") from None
