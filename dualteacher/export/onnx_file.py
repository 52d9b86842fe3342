"""Write a network as ONNX: float32 from torch.export, optionally converted to float16 or int8, optionally with argmax.

onnx and onnxruntime take a second to import, so functions import them when needed.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dualteacher.export.parity import Runner
from dualteacher.system import files

if TYPE_CHECKING:
    import onnx

OPSET = 18
ENTRY = "dualteacher"  # metadata key: the description from the weights file, as JSON
IMAGE = "image"


def from_program(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    """The float32 model: image (batch, bands, height, width) → logits (batch, C, height, width).

    Height and width are free, or those of the program.
    """
    with _quiet():
        made = torch.onnx.export(
            program, input_names=[IMAGE], output_names=["logits"], opset_version=OPSET, verbose=False
        )
    assert made is not None
    return _tidy(made.model_proto)


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes, which include paths of this machine; name the dimensions."""
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for entry in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del entry.metadata_props[:]
        entry.doc_string = ""
    for value in (*graph.input, *graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            dimension = value.type.tensor_type.shape.dim[axis]
            if not dimension.dim_value:  # else of one size only
                dimension.dim_param = name
    graph.name = "dualteacher"
    return model


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert weights and arithmetic to float16; input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with _quiet():
        made = OnnxModel(convert_float_to_float16(_copy(model), keep_io_types=True))
        made.topological_sort()  # the converter appends the casts at the end
        return made.model


def to_int8(model: onnx.ModelProto, images: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Quantise weights (per channel) and activations to int8, calibrated on `images` (1, 3, H, W) float32."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {IMAGE: image}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared, target = (Path(folder, name) for name in ("float32.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(target)


def with_argmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the logits by their argmax: classes (batch, height, width) uint8."""
    from onnx import TensorProto, helper

    model = _copy(model)
    graph = model.graph
    (logits,) = graph.output
    graph.node.append(helper.make_node("ArgMax", [logits.name], ["index"], axis=1, keepdims=0))
    graph.node.append(helper.make_node("Cast", ["index"], ["classes"], to=TensorProto.UINT8))
    sides = logits.type.tensor_type.shape.dim[2:]
    shape = ["batch", *(side.dim_value or side.dim_param for side in sides)]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("classes", TensorProto.UINT8, shape))
    return model


def write(path: Path, model: onnx.ModelProto, description: Mapping[str, Any]) -> None:
    """Check the model and write it, with the description in its metadata."""
    import onnx

    model = _copy(model)
    model.producer_name = "dualteacher"
    onnx.helper.set_model_props(model, {ENTRY: json.dumps(description, sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    with files.atomic(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def runner(path: Path) -> Runner:
    """Run a file with onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {IMAGE: images})[0]


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries: they warn about their own deprecations and list every node they leave unchanged."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
