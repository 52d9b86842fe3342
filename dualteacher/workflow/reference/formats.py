"""docs/reference/files.md: the files that the pipeline writes, with the columns of each table.

A test compares the names and types below with the files of a real run. Where a module defines its columns in a constant
(the pack's schema, the history), they are taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dualteacher.data import pack
from dualteacher.models import tensors
from dualteacher.system import paths
from dualteacher.training import history

DATASET = paths.Dataset("DATASET")
SPLIT = paths.Partition("DATASET", "PARTITION", 0)
RUN = paths.Cell("DATASET", "PARTITION", "METHOD", 0)

Columns = dict[str, tuple[str, str]]  # name: (type, meaning)


@dataclass(frozen=True)
class Format:
    """A file: its path, the stage that writes it, a description, and its columns or keys."""

    path: str
    stage: str
    text: str
    columns: Columns = field(default_factory=dict)


def _columns(text: str) -> Columns:
    """Parse lines "name | type | meaning"."""
    rows = (line.split("|") for line in text.strip().splitlines())
    return {name.strip(): (kind.strip(), meaning.strip()) for name, kind, meaning in rows}


def _names(text: str) -> Columns:
    """Columns with self-explanatory names."""
    return dict.fromkeys(text.split(), ("", ""))


def _spelt(path: object) -> str:
    return str(path).replace("seed0", "seedN")


PACK = {
    "image_id": "unique in the file",
    "image": "encoded as published: JPEG or PNG; for other than three bands or 8 bits a NumPy array (.npy), (H, W, C)",
    "mask": "PNG of class indices, 255: ignored; null: no mask",
    "height": "pixels",
    "width": "pixels",
    "block": "neighbouring images share a block; training and validation share none; null: no blocks",
    "sha256": "hash of the other columns",
}
TYPES = {"float64": "double", "Int64": "int64", "string": "text"}  # pandas' names → ours
SCORES = """
iou | double | NaN if the class is absent
accuracy | double | share of the class's pixels predicted correctly
target_pixels | int64 | pixels of the class in the masks
predicted_pixels | int64 | pixels predicted as the class
"""
DESCRIPTION = _columns(
    """
format | text | format version
kind | text | segmenter (whole network) or backbone
model | mapping | section `model` of the settings
num_classes | int |
stride | number | of the logits, pixels; 1.75 for DPT on patches of 14
normalisation | mapping | mean and std, RGB in [0, 1]; applied inside the network
pretrained | mapping | the backbone's start: kind, file, sha256, network in it, number of tensors
encoder | mapping | only if the backbone is frozen and not in the file: sha256 of its tensors
classes | list | only if written by `Model.save`: index, name, color of each class
crop | int | side of the training crop, pixels
inference | mapping | section `inference` of the settings
cell | mapping | dataset, partition, method, seed
labelled | int | images trained on with masks
held_out | int | labelled images used only to choose the epoch
unlabelled | int | images trained on without masks
steps | int | optimiser steps
selected | mapping | by (last or held_out), epoch, step; miou if by held_out
scores | mapping or null | val_miou, val_pixel_accuracy of these weights during training; null: not validated
parameters | mapping | all settings that the weights depend on
params_fingerprint | text | sha256 of these
images_sha256 | mapping | train, val: of all images and masks, whose indices are the network's
train_sha256 | text | of the training pack
partition_sha256 | text | of the partition's table
program | text | name and version of the program that wrote the file
sha256 | text | hash of tensors and description
"""
)
METRICS = _columns(
    """
dataset | text |
partition | text |
method | text |
seed | int |
miou | number | mean IoU over classes, of the saved weights
pixel_accuracy | number |
mean_accuracy | number | mean accuracy over classes
last_epoch | int or null |
best_miou | number or null | best validation during training; optimistic
best_epoch | int or null |
selected | text | how the epoch was chosen: last or held_out
selected_epoch | int or null |
images | int | validation images with a mask
partition_sha256 | text | of the partition's table
weights_sha256 | text | of student.safetensors
train_sha256 | text | of the training pack
params_fingerprint | text | hash of `parameters`
parameters | mapping | all settings that the weights depend on
"""
)
COST = _columns(
    """
seconds | number | training loop including validations
steps | int |
images_per_second | number or null |
peak_memory_bytes | int | of the GPU or, on a CPU, of the process
student_images | int | images through a network with gradient
teacher_images | int | images that were only pseudo-labelled
parameters | int | of all trained networks, with what is frozen
device | text |
threads | int |
cores | int |
"""
)
PROVENANCE = _columns(
    """
kind | text | generated or official
dataset | text |
partition | text |
seed | int |
unit | text | what was drawn: block or image
labelled | int | images, including the held-out ones
held_out | int |
unlabelled | int |
list_sha256 | text | hash of the labelled image ids; identifies the partition in the tables
pack_sha256 | text | of the training pack
classes_missing | list | indices of the classes without any labelled image
labelled_pixels | list | labelled pixels of each class
"""
)
STATISTICS = "n, mean, std, low, high (the bootstrap interval), t_low, t_high (Student's t interval)"

FORMATS = [
    Format(_spelt(DATASET.manifest), "download", "file, bytes, sha256 and origin of each archive",
           _columns("archives | list | one mapping per archive")),
    Format("data/weights/BACKBONE.safetensors", "download --weights",
           "pretrained backbone, in this package's key names"),
    Format(_spelt(DATASET.folder / "{train,val}.arrow"), "prepare",
           f"images and masks, as an uncompressed, memory-mapped Arrow IPC file, format {pack.FORMAT}."
           " Its metadata holds `dualteacher.format`, `.dataset`, `.classes` (their number) and `.sha256`; with chosen"
           " bands or range also `.channels` (JSON)",
           {entry.name: (str(entry.type), PACK[entry.name]) for entry in pack.SCHEMA}),
    Format(_spelt(DATASET.stats), "prepare", "pixel counts by image and class, without zeros",
           _columns("split | text | train or val\nimage_id | text |\nclass_index | int64 | 255: ignored"
                    "\npixels | int64 |")),
    Format(_spelt(DATASET.findings), "prepare", "findings of the data checks",
           _columns("skipped | list | images that were skipped\nerrors | list | where, text"
                    "\nwarnings | list | where, text")),
    Format(_spelt(DATASET.classes), "classes", "a list: index, name, color [r, g, b] of each class"),
    Format(_spelt(DATASET.contact_sheet), "classes", "images of each class, overlaid with their masks"),
    Format(_spelt(SPLIT.table), "partition", "the role of each training image",
           _columns("image_id | text |\nrole | text | labelled, held_out or unlabelled")),
    Format(_spelt(SPLIT.provenance), "partition",
           "the partition's origin. A generated one also has `fraction` or `count` as requested, and the block that was"
           " split; an official one has its list's repository, commit and sha256", PROVENANCE),
    Format(_spelt(RUN.student), "warmup, train",
           f"the network. Its metadata has one entry, `{tensors.ENTRY}`: JSON with these keys and, with chosen bands or"
           " range, `channels`"
           " ([export.md](../export.md))", DESCRIPTION),
    Format(_spelt(RUN.history), "warmup, train", "one row per epoch",
           {c.name: (TYPES.get(c.dtype, c.dtype), c.meaning) for c in history.COLUMNS}),
    Format(_spelt(RUN.cost), "warmup, train", "time and memory; the only file that varies between repeats", COST),
    Format(_spelt(RUN.alarms), "warmup, train", "signs of collapse ([report.md](../report.md))",
           _columns("alarms | list | name, epoch, step, text of each")),
    Format(_spelt(RUN.calibration), "train",
           "accuracy of pseudo-labels on the probe images, in twenty bins of confidence",
           _columns("low | double | lower limit of confidence\nhigh | double | upper limit\npixels | int64 |"
                    "\nright | int64 | correct pixels"
                    "\nconfidence | double | sum over pixels")),
    Format(_spelt(RUN.snapshots), "train", "predictions of a few validation images at each validation",
           _columns("epoch | int64 |\nstep | int64 |\nimage_id | text |"
                    "\nprediction | binary | greyscale PNG of class indices")),
    Format(_spelt(RUN.metrics), "evaluate", "scores, fractions from 0 to 1", METRICS),
    Format(_spelt(RUN.classes), "evaluate", "names and colours of the classes, for all who use the weights",
           _columns("weights_sha256 | text | of student.safetensors"
                    "\nclasses | list | index, name, color [r, g, b] of each class")),
    Format(_spelt(RUN.per_class), "evaluate", "scores by class",
           _columns("class_index | int64 |\nclass_name | text |" + SCORES)),
    Format(_spelt(RUN.confusion), "evaluate", "the confusion matrix",
           _columns("target | int64 | class in the mask\nprediction | int64 | predicted class\npixels | int64 |")),
    Format(_spelt(RUN.per_image), "evaluate", "scores by image, over the classes in its mask",
           _columns("image_id | text |\nmiou | double |\npixel_accuracy | double |")),
    Format(_spelt(RUN.pictures), "evaluate", "the gallery's pictures as separate images",
           _columns("image_id | text |\nright | double | share of correct pixels\nimage | binary | JPEG"
                    "\ntruth | binary | PNG, in the class colours"
                    "\nprediction | binary | PNG, in the class colours")),
    Format(_spelt(RUN.gallery), "evaluate", "the gallery as one picture: image, ground truth, prediction, errors"),
    Format(_spelt(RUN.model_card), "evaluate", "description and scores of the weights, in Markdown"),
    Format(str(paths.REPORT / "index.html"), "report", "the report ([report.md](../report.md)), self-contained"),
    Format(str(paths.REPORT / "table.{csv,parquet,md,tex}"), "report",
           "one row per dataset, partition and method. `_mean` and `_std` (n − 1) over seeds of each score;"
           f" `difference_`: against the baseline, paired by seed: {STATISTICS}",
           _names("""
dataset partition method seeds labelled_min labelled_max held_out_min held_out_max unlabelled_min
unlabelled_max miou_mean miou_std best_miou_mean best_miou_std pixel_accuracy_mean pixel_accuracy_std
mean_accuracy_mean mean_accuracy_std difference_n difference_mean difference_std difference_low
difference_high difference_t_low difference_t_high student_images teacher_images
seconds images_per_second peak_memory_bytes parameters selected
bound alarms device list list_sha256
""")),
    Format(str(paths.REPORT / "table_seeds.parquet"), "report", "one row per run",
           _names("""
dataset partition method seed labelled held_out unlabelled miou best_miou pixel_accuracy mean_accuracy
last_epoch best_epoch selected validation_images alarms student_images teacher_images seconds
images_per_second peak_memory_bytes parameters device threads list list_sha256 bound difference
""")),
    Format(str(paths.REPORT / "curves.csv"), "report", "all runs' validations during training",
           _names("""
dataset partition method seed epoch step val_miou
""")),
    Format(str(paths.REPORT / "comparisons.csv"), "report",
           f"mIoU of each method minus the baseline's, paired by seed: {STATISTICS}",
           _names("""
dataset partition method baseline n mean std low high t_low t_high differences
""")),
    Format(str(paths.REPORT / "class_gains.csv"), "report", f"the same for each class's IoU: {STATISTICS}",
           _names("""
dataset partition method class_index class_name n mean std low high t_low t_high
""")),
    Format(str(paths.REPORT / "calibration.csv"), "report", "expected calibration error of each run's pseudo-labels",
           _names("""
dataset partition method seed pixels confidence accuracy ece
""")),
    Format(str(paths.REPORT / "hardest.csv"), "report", "validation images with the lowest mIoU",
           _names("""
dataset partition rank image_id mean method miou
""")),
    Format(str(paths.REPORT / "alarms.csv"), "report", "all runs' alarms",
           _names("""
dataset partition method seed alarm epoch step text
""")),
    Format(str(paths.REPORT / "figures/*.{svg,png}"), "report", "the page's figures"),
    Format(str(paths.SUMMARY), "report", "dataset → partition → method → miou, seeds; for `dvc metrics` and"
           " `dvc exp show`"),
]  # fmt: skip

HEAD = """# Files

<!-- written by `make reference` from dualteacher/workflow/reference/formats.py, paths.py and the writers' schemas -->

The files that the pipeline writes. pandas reads the Parquet files, `pyarrow.ipc.open_file` the packs. Words in capitals
stand for names in `params.yaml`; warm-ups are stored under the method name `warmup`. Most tables and JSON files in
`data/` and `results/runs/` contain a SHA-256 of their content (`dualteacher.sha256` in a table's schema, the key
`sha256` in JSON), which is checked on reading; packs have one per image. Masks hold class indices, 255 for no class.

For the outputs of `predict`, see [predict.md](../predict.md); of `suggest`, [labelling.md](../labelling.md); of
`export`, [export.md](../export.md). `logs/` has one log per job. `.checkpoints/` holds internal state. You may delete
it while nothing is running; interrupted runs then restart from the beginning.
"""


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for one in FORMATS:
        text = f"## `{one.path}`\n\nBy `{one.stage}`: {one.text}.\n"
        if all(kind for kind, _ in one.columns.values()) and one.columns:
            rows = [f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in one.columns.items()]
            text += "\n".join(["", "| | type | |", "|---|---|---|", *rows, ""])
        elif one.columns:
            text += f"\n{', '.join(f'`{name}`' for name in one.columns)}\n"
        parts.append(text)
    return "\n".join(parts)
