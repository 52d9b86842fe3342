"""Where images come from; one section a source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Color, Inside, MaskValue, NotNegative, Place, Section, Share, by_tag


class BlueMarble(Section):
    """NASA Blue Marble tiles with Köppen–Geiger classes, cut on the user's machine."""

    source: Literal["bluemarble"]
    tile: Annotated[int, Field(ge=16, le=512, multiple_of=8)]  # side of a tile, pixels (15 a degree)
    block: Annotated[int, Field(ge=16)]  # side of the square that goes to one split as a whole, pixels
    minimum_land: Share  # tiles with less land than this are left out
    north: Annotated[float, Field(ge=-90, le=90)]  # degrees
    south: Annotated[float, Field(ge=-90, le=90)]  # degrees
    validation: Annotated[float, Field(gt=0.0, lt=1.0)]  # share of the blocks
    limit: AtLeastOne | None  # at most this many tiles a split, for quick tries; null: all

    @model_validator(mode="after")
    def _geometry(self) -> BlueMarble:
        if self.block % self.tile:
            raise ValueError(f"block ({self.block}) must be a multiple of tile ({self.tile})")
        if self.north <= self.south:
            raise ValueError(f"north ({self.north}) must lie above south ({self.south})")
        return self


class ADE20K(Section):
    """ADE20K's scene parsing challenge, 150 classes: 20,210 training and 2,000 validation images."""

    source: Literal["ade20k"]
    archive: Place | None  # ADEChallengeData2016.zip or the folder it unpacks to; null: download
    lists: bool  # fetch the official partitions' lists too


class VOC(Section):
    """PASCAL VOC 2012 with the 10,582 "augmented" training images, 21 classes with the background.

    classic: masks of VOC's own 1,464 training images; blended: SBD's coarser masks for the others.
    """

    source: Literal["voc"]
    protocol: Literal["classic", "blended"]  # which masks count, see above
    archive: Place | None  # VOCtrainval_11-May-2012.tar or the folder it unpacks to; null: download
    sbd: Place | None  # blended: benchmark.tgz or the folder it unpacks to; null: download
    lists: bool  # fetch the official partitions' lists too


class Cityscapes(Section):
    """Cityscapes' fine annotations, 19 classes: 2,975 training and 500 validation images."""

    source: Literal["cityscapes"]
    images: Place | None  # leftImg8bit_trainvaltest.zip or a folder with leftImg8bit/; null: csDownload
    masks: Place | None  # gtFine_trainvaltest.zip or a folder with gtFine/; null: csDownload
    lists: bool  # fetch the official partitions' lists too


class Textures(Section):
    """The positive control: scenes composed from real textures; see docs/control.md."""

    source: Literal["textures"]
    size: Annotated[int, Field(ge=32, le=512)]  # side of a scene, pixels
    train: AtLeastOne  # scenes
    validation: AtLeastOne  # scenes
    regions: Annotated[int, Field(ge=2, le=8)]  # at most, in a scene
    variation: NotNegative  # of gamma, contrast, brightness and colour cast from region to region


class FolderClass(Section):
    """A class of your own: its name, its colour in pictures, and how your mask files spell it."""

    name: Annotated[str, Field(min_length=1)]  # in tables and reports
    color: Color  # in pictures
    value: MaskValue  # in the mask files: an index, or [r, g, b]


class FolderValidation(Section):
    """Images that are never trained on: a share of the images with masks, or folders of their own."""

    share: Annotated[float, Field(gt=0.0, lt=1.0)] | None  # of the images with masks
    images: Inside | None  # a folder of their own
    masks: Inside | None  # and its masks

    @model_validator(mode="after")
    def _one_of(self) -> FolderValidation:
        if (self.images is None) != (self.masks is None) or (self.share is None) == (self.images is None):
            raise ValueError("give either share, or images and masks, and null for the rest")
        return self


class Folder(Section):
    """Your own images, and masks for some of them, in a folder on this machine; see docs/own-data.md."""

    source: Literal["folder"]
    folder: Place  # in which all others lie
    images: Inside  # all below are folders in `folder`, searched with their sub-folders; ".": `folder` itself
    masks: Inside  # may be fewer than the images
    mask_suffix: str  # what the name of an image's mask has in addition: _mask for a.jpg and a_mask.png
    unlabelled: Inside | None  # further images, without masks
    validation: FolderValidation  # images that are never trained on
    block: Literal["image", "folder"]  # what goes to one side as a whole: an image, or a sub-folder of images
    classes: Annotated[list[FolderClass], Field(min_length=2, max_length=255)]  # in the order of their indices
    ignore: list[MaskValue]  # further values of the mask files: pixels of no class
    on_error: Literal["stop", "skip"]  # files that cannot be used: stop and list them, or leave them out

    @model_validator(mode="after")
    def _folders(self) -> Folder:
        own = self.validation
        together = self.images == self.masks or (own.images is not None and own.images == own.masks)
        if together and not self.mask_suffix:
            raise ValueError("images and masks in one folder need a mask_suffix that tells them apart")
        named = [*{self.images, self.masks}, *{own.images, own.masks}, self.unlabelled]
        named = [folder for folder in named if folder is not None]
        twice = next((folder for folder in named if named.count(folder) > 1), None)
        if twice is not None:
            raise ValueError(f"'{twice}' is named for two purposes")
        return self

    @model_validator(mode="after")
    def _values(self) -> Folder:
        values = [entry.value for entry in self.classes] + self.ignore
        if len({isinstance(value, int) for value in values}) > 1:
            raise ValueError("the values of classes and ignore are all indices or all colours [r, g, b], not both")
        texts = {"value": list(map(str, values)), "name": [entry.name for entry in self.classes]}
        for what, given in texts.items():
            repeated = next((text for text in given if given.count(text) > 1), None)
            if repeated is not None:
                raise ValueError(f"classes and ignore give the {what} {repeated} twice")
        return self


AnyDataset = Annotated[BlueMarble | Textures | ADE20K | VOC | Cityscapes | Folder, Field(discriminator="source")]
SOURCES = by_tag(AnyDataset, "source")
