"""Where images come from: one file a source, each a class that fits `Source`.

A new source is one file here, its settings in settings/datasets.py and a line in `choose`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

from dualteacher import settings
from dualteacher.data.fetch.download import Archive
from dualteacher.data.pack import ClassInfo, Sample

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")


class Content(Protocol):
    """What a source's archives hold."""

    def classes(self) -> list[ClassInfo]:
        """The class table; 255 in a mask is none of them."""
        ...

    def ids(self, split: Split) -> list[str]:
        """Image ids in the order of `samples`."""
        ...

    def samples(self, split: Split) -> Iterator[Sample]:
        """The split's rows, one at a time."""
        ...


class Source(Protocol):
    """A dataset as published."""

    def archives(self) -> list[Archive]:
        """What the download stage fetches."""
        ...

    def open(self, paths: Sequence[Path]) -> Content:
        """Read the fetched archives, given in the order of `archives`."""
        ...


def choose(dataset: settings.AnyDataset) -> Source:
    """The source that a dataset's settings ask for."""
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
        case settings.Folder():
            from dualteacher.data.sources.folder import Folder

            return Folder(dataset)
        case settings.Textures():
            from dualteacher.data.sources.textures import Textures

            return Textures(dataset)
        case settings.BlueMarble():
            from dualteacher.data.sources.bluemarble import BlueMarble

            return BlueMarble(dataset)
