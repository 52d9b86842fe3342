"""params.yaml as typed, validated settings.

There are no defaults: what is not written in params.yaml does not exist, so the file (and with it
Snakemake's and DVC's record of a run) is the whole truth. Every mistake becomes one line that names the
key, the value and what is allowed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dualteacher.errors import UserError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="lower-case letters, digits and _")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[list[Byte], Field(min_length=3, max_length=3)]  # [r, g, b]
MaskValue = Annotated[int, Field(ge=0, le=65535)] | Color


def _inside(text: str) -> str:
    if not text or "\\" in text or text.startswith("/") or ".." in text.split("/"):
        raise ValueError("expected a folder inside `folder`, spelt with / and without ..")
    return text


Inside = Annotated[str, AfterValidator(_inside)]
Place = Annotated[str, Field(min_length=1, description="a file's or folder's path")]


class Section(BaseModel):
    """A mapping of params.yaml: no unknown keys, no silent conversions, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Extra(Section):
    """A product of partitions and methods, for every dataset and seed of the grid; two empty lists: none."""

    partition: list[Name]  # keys of `partition`
    method: list[Name]  # keys of `methods`

    @model_validator(mode="after")
    def _both_or_none(self) -> Extra:
        if bool(self.partition) != bool(self.method):
            raise ValueError("give both partitions and methods, or an empty list for each")
        return self


class Also(Section):
    """Runs beside the product; DVC can list them because the first kind alone has splits and warm-ups of its own."""

    bound: Extra  # on other partitions, such as one with all labels
    ablation: Extra  # other methods on some of the grid's partitions


class Grid(Section):
    """Which cells are run: the product of the four lists, and what stands under `also`."""

    dataset: list[Name] = Field(min_length=1)  # keys of `datasets`
    partition: list[Name] = Field(min_length=1)  # keys of `partition`
    method: list[Name] = Field(min_length=1)  # keys of `methods`
    seed: list[Count] = Field(min_length=1)  # a cell each
    also: Also  # runs beside the product

    @property
    def partitions(self) -> list[str]:
        """All partitions, the bounds' last."""
        return [*self.partition, *self.also.bound.partition]

    @property
    def methods(self) -> list[str]:
        """All methods: the grid's, the ablations', the bounds'."""
        extra = self.also
        return list(dict.fromkeys([*self.method, *extra.ablation.method, *extra.bound.method]))

    def methods_on(self, partition: str) -> list[str]:
        """The methods that are run on a partition."""
        extra = self.also
        if partition in extra.bound.partition:
            return extra.bound.method
        return [*self.method, *(extra.ablation.method if partition in extra.ablation.partition else [])]

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """(dataset, partition, method) of every row of the table; each has a cell for every seed."""
        return [(d, p, m) for d in self.dataset for p in self.partitions for m in self.methods_on(p)]

    @model_validator(mode="after")
    def _no_repeats(self) -> Grid:
        extras = (("also.bound.", self.also.bound), ("also.ablation.", self.also.ablation))
        lists = {key: getattr(self, key) for key in ("dataset", "partition", "method", "seed")}
        lists |= {f"{name}{key}": getattr(extra, key) for name, extra in extras for key in ("partition", "method")}
        for key, values in lists.items():
            if len(set(values)) != len(values):
                raise ValueError(f"grid.{key} lists a value twice: {values}")
        return self

    @model_validator(mode="after")
    def _each_cell_once(self) -> Grid:
        bound, ablation = self.also.bound, self.also.ablation
        for name in bound.partition:
            if name in self.partition:
                raise ValueError(f"grid.also.bound.partition names '{name}', which grid.partition has already")
        for name in ablation.partition:
            if name not in self.partition:
                raise ValueError(f"grid.also.ablation.partition names '{name}', which grid.partition lacks")
        for name in ablation.method:
            if name in self.method:
                raise ValueError(f"grid.also.ablation.method names '{name}', which grid.method has already")
        return self


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


SOURCES: dict[str, type[Section]] = {
    "bluemarble": BlueMarble,
    "textures": Textures,
    "ade20k": ADE20K,
    "voc": VOC,
    "cityscapes": Cityscapes,
    "folder": Folder,
}
AnyDataset = Annotated[BlueMarble | Textures | ADE20K | VOC | Cityscapes | Folder, Field(discriminator="source")]


class Partition(Section):
    """Which training images keep their masks: a share of them, a number, or an official list."""

    fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None  # of all training images
    count: AtLeastOne | Literal["all"] | None  # all: every image that has a mask
    list: Name | None  # its name in dualteacher/data/partition_lists.json
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] | None  # share of these that only picks the epoch; null: the last

    @model_validator(mode="after")
    def _one_of(self) -> Partition:
        if [self.fraction, self.count, self.list].count(None) != 2:
            raise ValueError("give exactly one of fraction, count and list, and null for the others")
        return self


class Model(Section):
    """The network; see models/segmenter.py."""

    architecture: Literal["segformer", "deeplabv3plus"]  # the head and how it takes features
    backbone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]  # mit_b0 … mit_b5, or timm's name
    weights: Annotated[str, Field(min_length=1)]  # wheel, timm, none, or a file's path
    head_width: AtLeastOne  # channels
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]  # before the classifier
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)]  # the student's; teachers run at full depth
    sync_norm: bool  # batch normalisation over all processes of a run


class Batch(Section):
    """Images a step, over all processes.

    A group is what the release had on one GPU: its images mix among themselves and its losses have their own
    denominators. Each process runs its groups in `accumulate` passes, one after another, to save memory.
    """

    labelled: AtLeastOne  # images a step
    unlabelled: AtLeastOne  # images a step
    groups: AtLeastOne  # images mix within a group
    accumulate: AtLeastOne  # passes of a process over its groups
    crop: Annotated[int, Field(ge=8)]  # side of the square crop, pixels

    @model_validator(mode="after")
    def _whole_groups(self) -> Batch:
        for key in ("labelled", "unlabelled"):
            if getattr(self, key) % self.groups:
                raise ValueError(f"batch.{key} ({getattr(self, key)}) must be a multiple of groups ({self.groups})")
        if self.groups % self.accumulate:
            raise ValueError(f"batch.groups ({self.groups}) must be a multiple of accumulate ({self.accumulate})")
        return self


class Augment(Section):
    """The weak augmentation of every training image."""

    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: as is
    scale: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # random factor, from … to
    class_share: Annotated[float, Field(gt=0.0, le=1.0)]  # redraw a crop one class fills beyond this share
    flip: Share  # probability
    photometric: bool  # random brightness, contrast, saturation and hue

    @model_validator(mode="after")
    def _order(self) -> Augment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale runs from small to large, not {self.scale}")
        if self.resize and self.resize[0] < self.resize[1]:
            raise ValueError(f"augment.resize is [long, short], not {self.resize}")
        return self


class Jitter(Section):
    """Colour jitter; a factor is drawn from 1 ± the given range (hue: ± the range, in turns)."""

    probability: Share  # of an image
    brightness: Share  # the factor is drawn from 1 ± this
    contrast: Share  # the factor is drawn from 1 ± this
    saturation: Share  # the factor is drawn from 1 ± this
    hue: Annotated[float, Field(ge=0.0, le=0.5)]  # ± this, in turns of the colour circle


class Mixing(Section):
    """Strong views, made on the device: the two mixes and the implicit-consistency view."""

    cutmix_beta: Positive  # the box's share is drawn from Beta(b, b)
    cutmix_jitter: Jitter  # after CutMix
    blur: Share  # probability, after CutMix
    blur_sigma: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # pixels, from … to
    flip: Share  # probability, after CutMix
    strong_jitter: Jitter  # of the strong view
    grayscale: Share  # probability, of the strong view


class Loss(Section):
    """The loss on labelled images."""

    supervised: Literal["cross_entropy", "ohem"]  # ohem: of the hardest pixels only
    ohem_threshold: Share  # pixels whose class has at most this probability always count
    ohem_minimum: Count  # so many pixels of a group count at least


class Optimizer(Section):
    """Optimiser and schedule, shared by warm-up and training."""

    name: Literal["adamw", "sgd"]  # adamw or sgd
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]  # adamw
    momentum: Share  # sgd
    weight_decay: NotNegative  # not of normalisation layers
    head_multiplier: Positive  # learning rate of the head over that of the backbone
    ramp_steps: Count  # linear learning-rate ramp at the start
    ramp_ratio: Share  # of the learning rate, where the ramp begins
    power: NotNegative  # of the polynomial decay after the ramp
    horizon: AtLeastOne | None  # step at which the polynomial reaches 0; null: the last step
    bad_batch: Literal["stop", "skip"]  # when a loss or gradient is not a number


class Length(Section):
    """How long: a number of optimiser steps, or of passes over the labelled images."""

    steps: Count | None  # optimiser steps
    epochs: AtLeastOne | None  # passes over the labelled images
    learning_rate: Positive  # the backbone's, at its peak

    @model_validator(mode="after")
    def _one_of(self) -> Length:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs, and null for the other")
        return self


class Warmup(Length):
    """The supervised start that every method of a cell shares; steps: 0 leaves it out."""


class Train(Length):
    """The semi-supervised phase."""

    validate_every: AtLeastOne  # epochs
    probe_images: Count  # unlabelled images on which pseudo-labels are judged at each validation


class Teacher(Section):
    """What the teacher-based methods share."""

    threshold: Share  # confidence from which a pseudo-label counts
    ema_decay: Share  # at most
    unlabelled_weight: NotNegative  # of the mixed images' loss
    consistency_weight: NotNegative  # of the strong view's loss
    mixes: Annotated[list[Literal["cutmix", "classmix"]], Field(min_length=1)]  # taken in turn by epoch
    normalisation: Literal["running", "batch"]  # statistics the teachers label with


class DualTeacher(Teacher):
    """Temporary teachers that take turns; the paper has two that switch after each epoch."""

    teachers: AtLeastOne  # that take turns
    period: AtLeastOne  # length of a turn
    period_unit: Literal["epoch", "step"]  # of `period`
    temporary: bool  # each turn starts from a copy of the student


class FixMatch(Section):
    """The student labels weak views for its own strong views."""

    threshold: Share  # confidence from which a pseudo-label counts
    unlabelled_weight: NotNegative  # of the loss on unlabelled images


class UniMatch(FixMatch):
    """Two strong views and dropped-out features."""

    feature_dropout: Annotated[float, Field(ge=0.0, lt=1.0)]  # share of the channels


class CPS(Section):
    """Two networks teach each other."""

    unlabelled_weight: NotNegative  # of the loss on unlabelled images
    partner_seed: Count  # draws the second network's head
    ramp_steps: Count  # over which the weight rises from 0 while the labelled images teach that head; 0: as published


class Supervised(Section):
    """Goes on with the labelled images alone; nothing to set."""


class Methods(Section):
    """Each method's own settings; a method's name is its file's name in dualteacher/methods/."""

    supervised: Supervised | None = None
    mean_teacher: Teacher | None = None
    fixmatch: FixMatch | None = None
    unimatch: UniMatch | None = None
    cps: CPS | None = None
    dual_teacher: DualTeacher | None = None
    # ablations of Dual Teacher: the same code, other settings
    dual_teacher_single: DualTeacher | None = None
    dual_teacher_triple: DualTeacher | None = None
    dual_teacher_steps: DualTeacher | None = None
    dual_teacher_cutmix: DualTeacher | None = None
    dual_teacher_plain: DualTeacher | None = None
    dual_teacher_permanent: DualTeacher | None = None
    dual_teacher_slow: DualTeacher | None = None


class Inference(Section):
    """How a whole image is predicted, in validation and evaluation alike."""

    mode: Literal["whole", "slide"]  # the whole image at once, or windows that slide over it
    batch: AtLeastOne  # images of one size predicted together
    resize: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None  # [long, short]; null: as is
    multiple: AtLeastOne  # both sides are rounded to a multiple of this
    window: AtLeastOne  # slide: side of the window, pixels
    stride: AtLeastOne  # slide: step between windows, pixels


class Evaluate(Section):
    """The final evaluation."""

    scales: Annotated[list[Positive], Field(min_length=1)]  # predictions at these scales are averaged
    flip: bool  # and those of the mirrored image
    gallery: AtLeastOne  # images in the gallery


class Report(Section):
    """The report's words."""

    title: str  # of the page
    baseline: Name  # the method the others are compared with


class Runtime(Section):
    """The machine. precision and compile change the numbers and are tracked; the rest is not."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]  # auto takes a GPU if there is one
    precision: Literal["float32", "bfloat16"]  # of the networks' passes
    compile: bool  # torch.compile
    threads: AtLeastOne  # CPU threads a job
    workers: Count  # loader processes a job
    checkpoint_minutes: NotNegative  # 0: after every step
    checkpoint_steps: AtLeastOne | None  # in addition, every so many steps


class Settings(Section):
    """All of params.yaml."""

    grid: Grid
    watched: Place  # a folder whose files both engines watch: where datasets of source `folder` lie
    datasets: dict[Name, AnyDataset]
    partition: dict[Name, Partition]
    model: Model
    batch: Batch
    augment: Augment
    mixing: Mixing
    loss: Loss
    optimizer: Optimizer
    warmup: Warmup
    train: Train
    methods: Methods
    inference: Inference
    evaluate: Evaluate
    report: Report
    runtime: Runtime

    @model_validator(mode="after")
    def _grid_is_described(self) -> Settings:
        described = {
            "dataset": set(self.datasets),
            "partition": set(self.partition),
            "method": {name for name, value in self.methods if value is not None},
        }
        where = {"dataset": "datasets", "partition": "partition", "method": "methods"}
        used = {"dataset": self.grid.dataset, "partition": self.grid.partitions, "method": self.grid.methods}
        for key, known in described.items():
            for value in used[key]:
                if value not in known:
                    section = key if value in getattr(self.grid, key) else "also"
                    raise ValueError(
                        f"grid.{section} names '{value}', which {where[key]} does not describe;"
                        f" described: {', '.join(sorted(known)) or 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _lists_are_known(self) -> Settings:
        from dualteacher.data import lists

        for partition in self.grid.partitions:
            wanted = self.partition[partition].list
            for dataset in self.grid.dataset if wanted is not None else []:
                described = self.datasets[dataset]
                known = lists.names(described.source)
                if wanted not in known:
                    raise ValueError(
                        f"partition.{partition}.list names '{wanted}', which no official list of datasets.{dataset}"
                        f" is called; known: {', '.join(known) or 'none'}"
                    )
                if not getattr(described, "lists", False):
                    raise ValueError(f"partition.{partition}.list needs datasets.{dataset}.lists: true")
        return self


def load(path: str | os.PathLike[str] = "params.yaml") -> Settings:
    """Read and validate a settings file; UserError in one line on any mistake."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; run from the project's folder, or `make use PRESET=bluemarble` to make one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place}: not valid YAML: {getattr(error, 'problem', error)}") from None
    return parse(raw, str(path))


def parse(raw: Any, origin: str = "params.yaml") -> Settings:
    """Validate an already parsed settings mapping."""
    if not isinstance(raw, dict):
        raise UserError(f"{origin}: a mapping of sections is expected, not {type(raw).__name__}")
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{origin}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first mistake in words, and how many more there are."""
    # a misspelt key is also a missing one: the unknown key says more
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in _as_written(first["loc"]))
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        text = f"unknown key '{key}'{_similar(first['loc'])}"
    elif kind == "missing":
        text = f"key '{key}' is missing"
    elif kind == "union_tag_not_found":
        text = f"key '{key}.source' is missing (one of: {', '.join(SOURCES)})"
    elif kind == "union_tag_invalid":
        text = f"{key}.source = {first['ctx']['tag']!r}: unknown; one of: {', '.join(SOURCES)}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        shown = "" if isinstance(value, dict) else f" = {value!r}"
        text = f"{key}{shown}: {message}" if key else message
        if isinstance(value, str) and kind.startswith(("float", "int")) and value[:1].isdigit():
            text += " (YAML reads 1e-3 as text: write 0.001)"
    more = len(problems) - 1
    return text + (f" (and {more} more mistake{'s' if more > 1 else ''})" if more else "")


def _as_written(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Keys as they stand in the file: below datasets.NAME, pydantic inserts the source's name."""
    return location[:2] + location[3:] if location[0:1] == ("datasets",) else location


def _similar(location: tuple[int | str, ...]) -> str:
    """«; did you mean 'x'? allowed: …» for an unknown key."""
    import difflib

    model: Any = Settings
    if location[0] == "datasets" and len(location) > 3:
        model, location = SOURCES[str(location[2])], location[3:]
    for part in location[:-1]:
        field = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
        if field is None:
            return ""
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if hasattr(c, "model_fields")), None)
        if model is None:
            return ""
    allowed = sorted(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    return (f"; did you mean '{near[0]}'?" if near else "") + f" (allowed: {', '.join(allowed)})"
