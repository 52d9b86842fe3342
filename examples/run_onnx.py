"""Label images with an exported network; needs numpy, pillow and onnxruntime, but not this package.

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


session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["dualteacher"])
fit, classes = about["inference"]["resize"], about["classes"]
for name in sys.argv[2:]:
    image = read(name)
    scale = min(max(fit) / max(image.size), min(fit) / min(image.size)) if fit else 1
    size = [max(64, round(side * scale / 32) * 32) for side in image.size]  # as in training, and a multiple of 32
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    output = session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0][0]
    found = output if output.ndim == 2 else output.argmax(0)
    mask = Image.fromarray(found.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    mask.putpalette([value for entry in classes for value in entry["color"]])
    mask.save(Path(name).with_suffix(".classes.png"))
    shares = np.bincount(np.asarray(mask).ravel(), minlength=len(classes)) / mask.width / mask.height
    print(name, ", ".join(f"{classes[i]['name']} {share:.1%}" for i, share in enumerate(shares) if share))
