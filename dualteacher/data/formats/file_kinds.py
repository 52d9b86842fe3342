"""Which files can be read as images, and what the others in a user's folder are."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from PIL import features

from dualteacher.data.formats import class_lists
from dualteacher.data.formats.folder_roles import is_made

HEIF_READER = importlib.util.find_spec("pillow_heif") is not None  # the extra `heic`
if HEIF_READER:
    importlib.import_module("pillow_heif").register_heif_opener()

HEIC = frozenset({".heic", ".heif", ".hif"})
AVIF = frozenset({".avif"})
JPEG_2000 = frozenset({".jp2", ".j2k", ".jpx", ".jpf", ".j2c"})
RAW = frozenset({".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf"})
RAW |= {".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
OTHER = frozenset({".dcm", ".dds", ".ecw", ".eps", ".exr", ".hdf", ".hdr", ".ico", ".jxl", ".jxr", ".mpo", ".nc"})
OTHER |= {".nii", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".psd", ".qoi", ".sgi", ".sid", ".svg", ".tga"}
OTHER |= {".xcf"}
PLAIN = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SUFFIXES = PLAIN.union(
    HEIC if HEIF_READER else (),
    AVIF if features.check("avif") else (),
    JPEG_2000 if features.check("jpg_2000") else (),
)
SYSTEM_FOLDERS = {"@eadir", "#recycle", "@recycle", "$recycle.bin", "__macosx", "lost+found"}
SYSTEM_FOLDERS |= {"system volume information"}
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
SYSTEM = "thumbnails and system files"
LISTS = "lists of a split"  # Pascal VOC's
KEEP_SPLIT = "name that of the validation images under `validation: list` in params.yaml to keep the split"
MADE = "masks, overlays and the like"
CLASS_FILES = {"classes.json", "classes.txt", *class_lists.READERS}

# What to do about files of a kind; each is a photo that nobody should lose unawares.
ADVICE = {
    "HEIC images": "`pip install pillow-heif` makes them readable",
    "AVIF images": "this Pillow cannot read them: convert them to PNG",
    "JPEG 2000 images": "this Pillow cannot read them: convert them to PNG",
    "RAW photos": "develop them to TIFF or PNG",
    "videos": "`predict` reads a video that it is given by name; extract frames to train on them",
    "images of other formats": "convert them to PNG or TIFF",
    "files without an ending": "give images theirs, such as .jpg",
}


def is_image(path: Path | str) -> bool:
    """Whether the name is that of an image; hidden files (macOS writes `._x.jpg`) are not."""
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def unsupported(data: bytes) -> str | None:
    """What to say of a file's content that is a known format which cannot be read here."""
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1") and not HEIF_READER:
            return f"a HEIC image: {ADVICE['HEIC images']}"
        if brand in (b"avif", b"avis") and ".avif" not in SUFFIXES:
            return "an AVIF image, which this Pillow cannot read: convert it to PNG"
    return None


def is_system_folder(name: str) -> bool:
    """A folder of thumbnails, deleted files and the like, or a hidden one."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def kind(name: str) -> str:
    """What a file is that is not used, in the plural."""
    path = PurePosixPath(name)
    ending = path.suffix.lower()
    if name.endswith("/") or path.name.startswith(".") or path.name.lower() in SYSTEM_FILES:
        return SYSTEM
    if ending == ".txt" and "ImageSets" in path.parts:
        return LISTS
    if ending in SUFFIXES and is_made(path):
        return MADE
    kinds = {
        "images": SUFFIXES,
        "HEIC images": HEIC,
        "AVIF images": AVIF,
        "JPEG 2000 images": JPEG_2000,
        "RAW photos": RAW,
        "videos": VIDEOS,
        "images of other formats": OTHER,
        "files without an ending": {""},
    }
    found = next((kind for kind, endings in kinds.items() if ending in endings), None)
    return found or ("images of other formats" if path.name.lower().endswith(".nii.gz") else "other files")


def by_kind(names: Iterable[str]) -> dict[str, list[str]]:
    """Unused files by kind, those that may be lost photos first."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if PurePosixPath(name).name not in CLASS_FILES:
            found[kind(name)].append(name)
    order = ["images", *ADVICE, MADE, LISTS, "other files", SYSTEM]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def described(left: Mapping[str, list[str]]) -> list[str]:
    """One line per kind: how many, which endings, an example, what to do."""
    lines = []
    for what, names in left.items():
        endings = sorted({PurePosixPath(name).suffix.lower() for name in names} - {""})
        shown = f" {', '.join(endings[:6])}{', …' if len(endings) > 6 else ''};" if endings and what != SYSTEM else ""
        line = f"{what}: {len(names)} ({shown} for example {names[0]})".replace("( ", "(")
        advice = KEEP_SPLIT if what == LISTS else ADVICE.get(what)
        lines.append(f"{line}; {advice}" if advice else line)
    return lines
