"""A dataset's split in one uncompressed Arrow IPC file, read through a memory map.

One file per split keeps both engines fast (20,000 small files cost seconds at every status check), gives random access
in constant time, and lets loader workers share its pages through the page cache. Other programs can read it, e.g. with
``pyarrow.ipc.open_file`` or ``polars.read_ipc``; `SCHEMA` lists the columns.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from PIL import Image, PngImagePlugin

from dualteacher.data.channels import RGB, Channels, levels, shown
from dualteacher.system import files
from dualteacher.system.errors import UserError

FORMAT = "3"
LARGEST = 1 << 28  # pixels of an image, 16,384²; Pillow's default limit is too low for some datasets
Image.MAX_IMAGE_PIXELS = LARGEST
PngImagePlugin.MAX_TEXT_CHUNK = 64 << 20  # bytes; image editors store metadata and profiles of more than Pillow's 1 MB
DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # Pillow, on damaged files
BATCH_BYTES = 8 << 20  # a record batch is written when it reaches this size …
BATCH_ROWS = 256  # … or this many rows, which bounds memory
ARRAY = np.lib.format.MAGIC_PREFIX
AGAIN = "run the prepare stage again"
REMOVE = "remove the file and run the same command again to restore it"

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # JPEG or PNG; see `encode_array` for others
        pa.field("mask", pa.binary()),  # PNG of class indices (uint8, 255 = ignore); null: no mask
        pa.field("height", pa.int32(), nullable=False),  # pixels
        pa.field("width", pa.int32(), nullable=False),
        pa.field("block", pa.string()),  # images of one block are neighbours; null: no blocks
        pa.field("sha256", pa.string(), nullable=False),  # of all other columns, see row_hash
    ]
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a pack: encoded image, encoded mask (or None), size in pixels, block (or None)."""

    image_id: str
    image: bytes
    mask: bytes | None
    height: int
    width: int
    block: str | None = None


def row_hash(
    image_id: str, image: bytes | pa.Buffer, mask: bytes | pa.Buffer | None, height: int, width: int, block: str | None
) -> str:
    """Hex digest of everything in a row."""
    head = [image_id, int(height), int(width), block, mask is None, len(image)]
    digest = hashlib.sha256(json.dumps(head).encode())
    digest.update(image)
    digest.update(b"" if mask is None else mask)
    return digest.hexdigest()


def _description_hash(dataset: str, classes: str, channels: str | None) -> str:
    further = [] if channels is None else [channels]
    return hashlib.sha256("\0".join([dataset, classes, *further]).encode()).hexdigest()


def encode_array(pixels: np.ndarray) -> bytes:
    """Pixels (H, W, C), uint8 or uint16, in NumPy's own format, for channels that no picture format holds."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def decode_image(data: bytes | pa.Buffer, least: tuple[int, int] | None = None) -> np.ndarray:
    """Encoded image → levels (H, W, 3), or (H, W, C) from `encode_array`; one of DECODE_ERRORS if it is damaged.

    With `least` (H, W), a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is no smaller than `least`, which
    saves most of the work.
    """
    file = io.BytesIO(data)
    if file.getbuffer()[: len(ARRAY)] == ARRAY:
        pixels = np.lib.format.read_array(file, allow_pickle=False)
        if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"an array of {pixels.dtype} {pixels.shape}")
        return levels(pixels)
    with Image.open(file) as image:
        if least is not None:
            image.draft(None, (least[1], least[0]))
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def decode_mask(data: bytes | pa.Buffer) -> np.ndarray:
    """PNG of indices → uint8 (H, W), ignoring palettes; one of DECODE_ERRORS if it is damaged."""
    with Image.open(io.BytesIO(data)) as mask:
        if mask.mode not in ("L", "P"):
            raise ValueError(f"a mask holds one index per pixel (mode L or P), not mode {mask.mode}")
        return np.array(mask)


class PackWriter:
    """Write a pack row by row; it appears at `path` when the context closes without an error.

    Memory is bounded by one record batch. The file's bytes depend only on the rows.
    """

    def __init__(self, path: Path, dataset: str, num_classes: int, channels: Channels = RGB) -> None:
        self.path = path
        metadata = {"format": FORMAT, "dataset": dataset, "classes": str(num_classes)}
        if channels != RGB:
            metadata["channels"] = json.dumps(channels.describe())
        metadata["sha256"] = _description_hash(dataset, metadata["classes"], metadata.get("channels"))
        self._schema = SCHEMA.with_metadata({f"dualteacher.{key}": text for key, text in metadata.items()})
        self._rows: list[tuple] = []
        self._bytes = 0
        self._ids: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> PackWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(files.atomic(self.path))
            # A Python file, because its OSError for a full disk has an errno.
            file = stack.enter_context(open(temporary, "wb"))
            self._writer = stack.enter_context(pa.ipc.new_file(file, self._schema))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:  # an exception in here discards the file
            if error is not None:
                raise error
            self._flush()

    def add(self, sample: Sample) -> None:
        """Append a row; UserError if the id repeats."""
        if sample.image_id in self._ids:
            raise UserError(f"{self.path}: two images share the id '{sample.image_id}'; ids must differ")
        self._ids.add(sample.image_id)
        row = (sample.image_id, sample.image, sample.mask, sample.height, sample.width, sample.block)
        self._rows.append((*row, row_hash(*row)))
        self._bytes += len(sample.image) + len(sample.mask or b"")
        if self._bytes >= BATCH_BYTES or len(self._rows) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(values, field.type)
                for values, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._rows, self._bytes = [], 0


class Pack:
    """Random access to a pack; images are decoded on access.

    Pickles as its path and works after a fork, as loader workers need. UserError if the file is missing, truncated or
    of another format or version, and at the first access to a damaged row.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        batches, metadata = _open(self.path)
        self.dataset, self.num_classes, self.channels = _describe(self.path, metadata)
        self.ids: list[str] = [i for batch in batches for i in batch.column("image_id").to_pylist()]
        self.blocks: list[str | None] = [b for batch in batches for b in batch.column("block").to_pylist()]
        self._images = [batch.column("image") for batch in batches]
        self._masks = [batch.column("mask") for batch in batches]
        self._hashes = [batch.column("sha256") for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        sizes = [np.stack([batch.column(c).to_numpy() for c in ("height", "width")], 1) for batch in batches]
        self._sizes = np.concatenate(sizes) if sizes else np.zeros((0, 2), np.int32)
        self._indices = {image_id: i for i, image_id in enumerate(self.ids)}
        self._verified = np.zeros(len(self.ids), bool)  # rows whose hash this process has checked

    def __reduce__(self) -> tuple[type[Pack], tuple[Path]]:
        return Pack, (self.path,)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int, least: tuple[int, int] | None = None) -> np.ndarray:
        """Levels (H, W, C), a copy; with `least` perhaps at a reduced size, see `decode_image`."""
        self._verify(i)
        try:
            return decode_image(self.encoded(i), least)
        except DECODE_ERRORS as error:
            raise UserError(f"{self.path}: image {self.ids[i]} cannot be decoded ({error})") from None

    def picture(self, i: int) -> np.ndarray:
        """The image for human eyes, (H, W, 3)."""
        return shown(self.image(i))

    def mask(self, i: int) -> np.ndarray | None:
        """Class indices, uint8 (H, W), 255 = ignore; None if the image has no mask."""
        chunk, row = self._locate(i)
        data = self._masks[chunk][row]
        if not data.is_valid:
            return None
        self._verify(i)
        try:
            return decode_mask(data.as_buffer())
        except DECODE_ERRORS as error:
            raise UserError(f"{self.path}: the mask of {self.ids[i]} cannot be decoded ({error})") from None

    def encoded(self, i: int) -> pa.Buffer:
        """The image's bytes as published, not copied."""
        chunk, row = self._locate(i)
        return self._images[chunk][row].as_buffer()

    def has_mask(self, i: int) -> bool:
        chunk, row = self._locate(i)
        return self._masks[chunk][row].is_valid

    def size(self, i: int) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self._sizes[i]
        return int(height), int(width)

    def index(self, image_id: str) -> int:
        """The row of an image; UserError if it is not in the pack."""
        try:
            return self._indices[image_id]
        except KeyError:
            raise UserError(f"{self.path}: contains no image '{image_id}'; run prepare and partition again") from None

    @property
    def content_hash(self) -> str:
        """Hex digest of all rows' hashes: of images, masks and ids. Does not read the images."""
        digest = hashlib.sha256()
        for column in self._hashes:
            digest.update("".join(column.to_pylist()).encode())
        return digest.hexdigest()

    def damaged(self) -> list[str]:
        """Ids of the images whose row does not match its hash. Reads the whole file."""
        return [self.ids[i] for i in range(len(self)) if not self._is_intact(i)]

    def check(self) -> None:
        """UserError if any row is damaged. Reads the whole file."""
        if found := self.damaged():
            raise UserError(f"{self.path}: damaged ({len(found)} images, the first {found[0]}); {REMOVE}")

    def _verify(self, i: int) -> None:
        """Check a row's hash at its first access; UserError if it is damaged."""
        if not self._verified[i]:
            if not self._is_intact(i):
                raise UserError(f"{self.path}: damaged at image {self.ids[i]}; {REMOVE}")
            self._verified[i] = True

    def _is_intact(self, i: int) -> bool:
        chunk, row = self._locate(i)
        mask = self._masks[chunk][row]
        data = mask.as_buffer() if mask.is_valid else None
        found = row_hash(self.ids[i], self.encoded(i), data, *self.size(i), self.blocks[i])
        return bool(found == self._hashes[chunk][row].as_py())

    def _locate(self, i: int) -> tuple[int, int]:
        """(number of the record batch, row in it)."""
        if not 0 <= i < len(self.ids):
            raise IndexError(f"{self.path}: no row {i} of {len(self.ids)}")
        chunk = int(np.searchsorted(self._starts, i, side="right")) - 1
        return chunk, i - int(self._starts[chunk])


def _open(path: Path) -> tuple[list[pa.RecordBatch], dict[bytes, bytes]]:
    """(memory-mapped record batches, the file's metadata), after the cheap checks."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty; {AGAIN}")
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        if not reader.schema.equals(SCHEMA):
            raise UserError(f"{path}: an Arrow file, but not a pack of this project; {AGAIN}")
        for batch in batches:
            batch.validate(full=True)  # offsets must stay inside the file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the prepare stage") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a pack, or damaged ({error}); {AGAIN}") from None
    return batches, reader.schema.metadata or {}


def _describe(path: Path, metadata: dict[bytes, bytes]) -> tuple[str, int, Channels]:
    """(the dataset's name, its number of classes, its images' channels) from a pack's metadata."""
    try:
        version = metadata[b"dualteacher.format"].decode()
        if version != FORMAT:
            raise UserError(f"{path}: pack format {version}, this program reads {FORMAT}; {AGAIN}")
        text, dataset = metadata[b"dualteacher.classes"].decode(), metadata[b"dualteacher.dataset"].decode()
        channels = metadata[b"dualteacher.channels"].decode() if b"dualteacher.channels" in metadata else None
        if metadata[b"dualteacher.sha256"].decode() != _description_hash(dataset, text, channels):
            raise UserError(f"{path}: damaged in its description; {REMOVE}")
        return dataset, int(text), Channels.of(None if channels is None else json.loads(channels))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a pack, or damaged ({error!r} in its description); {AGAIN}") from None
