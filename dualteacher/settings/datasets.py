"""Where the images come from: one section per source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dualteacher.settings.base import AtLeastOne, Color, Inside, MaskValue, NotNegative, Place, Section, Share, by_tag

Limits = Annotated[list[float], Field(min_length=2, max_length=2)]  # [low, high]
MOST_CLASSES = 255  # 255 in a mask is no class


class MapTiles(Section):
    """Tiles cut from the Blue Marble picture and a map of classes."""

    source: Literal["bluemarble", "landcover"]
    tile: Annotated[int, Field(ge=16, le=512, multiple_of=8)]  # side of a tile, pixels (15 per degree)
    block: Annotated[int, Field(ge=16)]  # side of a block, pixels; training and validation share no block
    label_by: Literal["block", "tile"]  # label whole blocks of overlapping tiles, or single tiles without overlap
    minimum_land: Share  # minimum share of land in a tile
    north: Annotated[float, Field(ge=-90, le=90)]  # degrees
    south: Annotated[float, Field(ge=-90, le=90)]  # degrees
    validation: Annotated[float, Field(gt=0.0, lt=1.0)]  # share of the blocks
    limit: AtLeastOne | None  # maximum number of tiles per split, for quick tests; null: all

    @model_validator(mode="after")
    def _geometry(self) -> MapTiles:
        if self.block % self.tile:
            raise ValueError(f"block ({self.block}) must be a multiple of tile ({self.tile})")
        if self.north <= self.south:
            raise ValueError(f"north ({self.north}) must be greater than south ({self.south})")
        return self


class BlueMarble(MapTiles):
    """NASA Blue Marble tiles with Köppen–Geiger climate classes; see docs/embedded-data.md."""

    source: Literal["bluemarble"]


class LandCover(MapTiles):
    """NASA Blue Marble tiles with six classes of MODIS land cover; see docs/embedded-data.md.

    The picture shows a snowy month: a `north` above 55 adds tundra that looks white and is labelled vegetation.
    """

    source: Literal["landcover"]


class ADE20K(Section):
    """ADE20K scene parsing, 150 classes: 20,210 training and 2,000 validation images."""

    source: Literal["ade20k"]
    archive: Place | None  # ADEChallengeData2016.zip or the folder it unpacks to; null: download
    lists: bool  # fetch the official partitions' lists too


class VOC(Section):
    """PASCAL VOC 2012, 21 classes including background, with the 10,582 "augmented" training images.

    classic: only VOC's own 1,464 training masks; blended: also SBD's coarser masks for the other images.
    """

    source: Literal["voc"]
    protocol: Literal["classic", "blended"]  # which masks to use, see above
    archive: Place | None  # VOCtrainval_11-May-2012.tar or the folder it unpacks to; null: download
    sbd: Place | None  # blended: benchmark.tgz or the folder it unpacks to; null: download
    lists: bool  # fetch the official partitions' lists too


class Cityscapes(Section):
    """Cityscapes with fine annotations, 19 classes: 2,975 training and 500 validation images."""

    source: Literal["cityscapes"]
    images: Place | None  # leftImg8bit_trainvaltest.zip or a folder with leftImg8bit/; null: csDownload
    masks: Place | None  # gtFine_trainvaltest.zip or a folder with gtFine/; null: csDownload
    lists: bool  # fetch the official partitions' lists too


class COCO(Section):
    """COCO 2017, 81 classes including background: 118,287 training and 5,000 validation images."""

    source: Literal["coco"]
    train: Place | None  # train2017.zip or a folder with train2017/; null: download
    val: Place | None  # val2017.zip or a folder with val2017/; null: download
    annotations: Place | None  # annotations_trainval2017.zip or a folder with its files; null: download
    lists: bool  # fetch the official partitions' lists too


class Textures(Section):
    """Synthetic scenes of real textures, the positive control; see docs/control.md."""

    source: Literal["textures"]
    size: Annotated[int, Field(ge=32, le=512)]  # side of a scene, pixels
    train: AtLeastOne  # number of scenes
    validation: AtLeastOne  # number of scenes
    regions: Annotated[int, Field(ge=2, le=8)]  # maximum number of regions per scene
    variation: NotNegative  # of gamma, contrast, brightness and colour cast between regions


class FolderClass(Section):
    """A class of your own: its name, its display colour, and its value in the mask files."""

    name: Annotated[str, Field(min_length=1)]  # for tables and reports
    color: Color  # for pictures
    value: MaskValue  # in the mask files: an index or [r, g, b]


class FolderValidation(Section):
    """Validation images: a share of the images with masks, separate folders, or those that a file lists."""

    share: Annotated[float, Field(gt=0.0, lt=1.0)] | None  # of the images with masks
    images: Inside | None  # separate folder of images
    masks: Inside | None  # separate folder of masks
    list: Inside | None = None  # a text file in `folder` that names them, one per line
    test: Inside | None = None  # likewise: images used neither for training nor for validation

    @model_validator(mode="after")
    def _one_of(self) -> FolderValidation:
        given = [self.share, self.images, self.list]
        if (self.images is None) != (self.masks is None) or sum(value is not None for value in given) != 1:
            raise ValueError("give either share, or images and masks, or list; set the rest to null")
        return self


class Folder(Section):
    """Your own images, with masks for some of them, in a local folder; see docs/own-data.md."""

    source: Literal["folder"]
    folder: Place  # base folder of the paths below
    images: Inside  # searched with its sub-folders; ".": `folder` itself
    masks: Inside  # masks, for all or some of the images
    mask_suffix: str  # appended to the image's name: _mask for a.jpg and a_mask.png
    mask_prefix: str = ""  # before the image's name: mask_ for a.jpg and mask_a.png
    image_prefix: str = ""  # not part of the mask's name; files without it are not used
    image_suffix: str = ""  # likewise: _0000 for a_0000.png and a.png (nnU-Net)
    unlabelled: Inside | None  # more images, without masks
    validation: FolderValidation  # images to validate on
    block: Literal["image", "folder", "stem"]  # never split between the sets; stem: Roboflow's copies (.rf.) of a photo
    bands: Annotated[list[AtLeastOne], Field(min_length=1, max_length=64)] | None = None  # from 1; null: RGB or grey
    rgb: bool = True  # whether the first three of `bands` are red, green and blue
    range: Literal["dtype", "percentile"] | Limits | list[Limits] = "dtype"  # of stored values, scaled to 8 or 16 bits
    depth: Literal[8, 16] = 8  # bits kept of a value; 16: for differences of less than 1/255 of `range`
    classes: Annotated[list[FolderClass], Field(min_length=2, max_length=MOST_CLASSES)]  # in index order
    ignore: list[MaskValue]  # mask values that belong to no class
    tolerance: NotNegative = 0.0  # other mask values take the nearest one within it, else they are ignored; 0: error
    on_error: Literal["stop", "skip"]  # for unusable files: stop and list them, or skip them

    @model_validator(mode="after")
    def _folders(self) -> Folder:
        own = self.validation
        together = self.images == self.masks or (own.images is not None and own.images == own.masks)
        if together and not self.mask_suffix and not self.mask_prefix:
            raise ValueError("images and masks in the same folder need a mask_suffix")
        named = [*{self.images, self.masks}, *{own.images, own.masks}, self.unlabelled]
        named = [folder for folder in named if folder is not None]
        twice = next((folder for folder in named if named.count(folder) > 1), None)
        if twice is not None:
            raise ValueError(f"'{twice}' is used for two purposes")
        return self

    @model_validator(mode="after")
    def _range(self) -> Folder:
        if isinstance(self.range, str):
            return self
        count = 3 if self.bands is None else len(self.bands)
        if len(self.limits) not in (1, count):
            raise ValueError(f"range: give one [low, high], or one for each of the {count} bands")
        if wrong := next(([low, high] for low, high in self.limits if not low < high), None):
            raise ValueError(f"range: {wrong}: low must be less than high")
        return self

    @property
    def limits(self) -> list[list[float]]:
        """`range` as pairs [low, high]: none, one for all bands, or one for each."""
        if isinstance(self.range, str):
            return []
        return [pair for pair in self.range if isinstance(pair, list)] or [self.range]  # type: ignore[list-item]

    @model_validator(mode="after")
    def _values(self) -> Folder:
        values = [entry.value for entry in self.classes] + self.ignore
        if len({isinstance(value, int) for value in values}) > 1:
            raise ValueError("the values in classes and ignore must be all indices or all colours [r, g, b]")
        texts = {"value": list(map(str, values)), "name": [entry.name for entry in self.classes]}
        for what, given in texts.items():
            repeated = next((text for text in given if given.count(text) > 1), None)
            if repeated is not None:
                raise ValueError(f"classes and ignore contain the {what} {repeated} twice")
        return self


AnyDataset = Annotated[
    BlueMarble | LandCover | Textures | ADE20K | VOC | Cityscapes | COCO | Folder, Field(discriminator="source")
]
SOURCES = by_tag(AnyDataset, "source")
