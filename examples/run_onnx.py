"""Label images with an exported network; needs numpy, pillow and onnxruntime, but not this package.

A network of chosen bands or a range of values also needs tifffile and imagecodecs.

python examples/run_onnx.py model.onnx photo.jpg …    writes photo.classes.png with the classes' colours
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(name: str) -> Image.Image:
    """Upright 8-bit RGB; of 16 bits the upper 8, as in training."""
    image = ImageOps.exif_transpose(Image.open(name))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def stored(name: str) -> tuple[np.ndarray, int]:
    """The values in the file (H, W, bands), upright, and their bits."""
    data = Path(name).read_bytes()
    if data[:2] in (b"II", b"MM"):
        import tifffile

        pages = tifffile.TiffFile(name).pages
        page = pages.first
        values, bits = page.asarray(), page.bitspersample
        if page.samplesperpixel == 1 and len({other.shape for other in pages}) == 1 and channels["bands"]:
            values = np.stack([other.asarray() for other in pages], 2)  # a band a picture
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            values = np.moveaxis(values, 0, 2)
    else:
        values = np.asarray(ImageOps.exif_transpose(Image.open(name)))
        if data[1:4] == b"PNG" and data[24] == 16:  # Pillow reduces colours to 8 bits
            import imagecodecs

            values = imagecodecs.png_decode(data)
        bits = 8 * values.dtype.itemsize
    return (values if values.ndim == 3 else values[..., None]), bits


def chosen(name: str, channels: dict) -> list[Image.Image]:
    """The network's bands as levels from 0 to 255, scaled as in training."""
    values, bits = stored(name)
    bands = channels["bands"] or ([1, 2, 3] if values.shape[2] >= 3 else [1, 1, 1])
    values = values[..., [band - 1 for band in bands]]
    top = (1 << channels.get("depth", 8)) - 1
    if channels["range"] is None:  # that of the number type
        bits = min(bits, 16) - (values.dtype.kind == "i" and bits <= 16)  # without the sign's
        if top == 255:
            pixels = (values >> (bits - 8) if bits >= 8 else values << (8 - bits)).astype(np.uint8)
        else:
            pixels = np.rint(values * (top / ((1 << bits) - 1)))
    else:
        low, high = np.array(channels["range"], float).T
        scaled = np.nan_to_num((values.astype(float) - low) * (top / (high - low)), nan=0)
        pixels = np.rint(np.clip(scaled, 0, top))
    pixels = pixels.astype(np.uint8) if top == 255 else (pixels / 257).astype(np.float32)
    return [Image.fromarray(band) for band in np.ascontiguousarray(np.moveaxis(pixels, 2, 0))]


session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["dualteacher"])
fit, classes = about["inference"]["resize"], about["classes"]
channels = about.get("channels", {"bands": None, "range": None})
for name in sys.argv[2:]:
    special = any(channels.get(key) for key in ("bands", "range", "depth"))
    bands = chosen(name, channels) if special else read(name).split()
    image = bands[0]
    scale = min(max(fit) / max(image.size), min(fit) / min(image.size)) if fit else 1
    size = [max(64, round(side * scale / 32) * 32) for side in image.size]  # as in training, and a multiple of 32
    fixed = session.get_inputs()[0].shape[2:]
    size = size if isinstance(fixed[0], str) else fixed[::-1]  # a file of one size has numbers
    pixels = np.stack([np.asarray(band.resize(size, Image.Resampling.BILINEAR), np.float32) for band in bands]) / 255
    output = session.run(None, {"image": pixels[None]})[0][0]
    found = output if output.ndim == 2 else output.argmax(0)
    mask = Image.fromarray(found.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    mask.putpalette([value for entry in classes for value in entry["color"]])
    mask.save(Path(name).with_suffix(".classes.png"))
    shares = np.bincount(np.asarray(mask).ravel(), minlength=len(classes)) / mask.width / mask.height
    print(name, ", ".join(f"{classes[i]['name']} {share:.1%}" for i, share in enumerate(shares) if share))
