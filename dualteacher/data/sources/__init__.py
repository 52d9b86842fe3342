"""Where images come from: one file per source, each with a class that implements `Source`.

To add a source: one file here, its settings in settings/datasets.py, a case in `choose`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

from dualteacher import settings
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.fetch import Archive
from dualteacher.data.pack import Sample

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")


class Content(Protocol):
    """Images of a source's archives.

    Three members are optional (see inspection.py). jobs(split): read and check the images, if the content has to decode
    them anyway. findings(): problems visible without opening a file. channels: of the images, if not RGB.
    """

    def ids(self, split: Split) -> list[str]:
        """Image ids, in the order of `samples`."""
        ...

    def samples(self, split: Split) -> Iterator[Sample]:
        """The split's images and masks, one at a time."""
        ...


class Source(Protocol):
    """A dataset as published."""

    def classes(self) -> list[ClassInfo]:
        """The class table, in the order of the mask's indices (255 = ignore); no file is needed for it."""
        ...

    def archives(self) -> list[Archive]:
        """The files that the download stage fetches."""
        ...

    def open(self, paths: Sequence[Path]) -> Content:
        """Open the fetched archives. paths: in the order of `archives()`."""
        ...


def choose(dataset: settings.AnyDataset) -> Source:
    """The source for a dataset's settings."""
    match dataset:
        case settings.ADE20K():
            from dualteacher.data.sources.ade20k import ADE20K

            return ADE20K(dataset)
        case settings.VOC():
            from dualteacher.data.sources.voc import VOC

            return VOC(dataset)
        case settings.Cityscapes():
            from dualteacher.data.sources.cityscapes import Cityscapes

            return Cityscapes(dataset)
        case settings.COCO():
            from dualteacher.data.sources.coco import COCO

            return COCO(dataset)
        case settings.Folder():
            from dualteacher.data.sources.folder import Folder

            return Folder(dataset)
        case settings.Textures():
            from dualteacher.data.sources.textures import Textures

            return Textures(dataset)
        case settings.BlueMarble():
            from dualteacher.data.sources.bluemarble import BlueMarble

            return BlueMarble(dataset)
        case settings.LandCover():
            from dualteacher.data.sources.landcover import LandCover

            return LandCover(dataset)
