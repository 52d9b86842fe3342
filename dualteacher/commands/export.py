"""Export a trained network to ONNX and torch.export files (`export`), checked on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualteacher.export import job as jobs
from dualteacher.export import network, onnx_file
from dualteacher.export.network import Size
from dualteacher.system import files, paths
from dualteacher.system.console import logger


def run(
    weights: Path, output: Path | None, pack: Path | None, precision: str, argmax: bool, size: Size | None = None
) -> bool:
    """Write model.onnx, model.pt2, model-PRECISION.onnx (unless float32) and export.json with the measurements.

    weights: a file that training wrote, or a run's folder. pack: images for the check; default: the validation
    images of the weights' dataset. size: the only height and width that the files take. Removes a float32 file that
    disagrees with the network on more than 0.1 % of the pixels, and returns False.
    """
    job = jobs.open_job(weights, pack, argmax, size)
    folder = output or paths.EXPORTS / job.name
    files.check_folder(folder)
    logger.info("%s: converting the network", weights)
    program = network.program(job.segmenter, size=size)
    model = onnx_file.from_program(program)
    onnx, torch_file = folder / "model.onnx", folder / "model.pt2"
    found = {onnx: jobs.write_onnx(onnx, job, model), torch_file: jobs.write_program(torch_file, job, program)}
    for path, compared in found.items():
        if compared.good:
            logger.info("%s: %s", path, compared)
        else:
            path.unlink()
            logger.error("%s: removed, because its predictions differ from the network's: %s", path, compared)
    measured: dict[str, Any] = {path.name: compared.numbers() for path, compared in found.items()}
    good = all(compared.good for compared in found.values())
    if good and precision != "float32":
        path = folder / f"model-{precision}.onnx"
        reduced = jobs.write_reduced(path, job, model, precision, onnx)
        points = 100 * (reduced.miou - reduced.miou_float32)
        logger.info(
            "%s: mIoU %.4f, float32 %.4f: %+.2f points; %s",
            path, reduced.miou, reduced.miou_float32, points, reduced.parity,
        )  # fmt: skip
        measured[path.name] = reduced.numbers()
    files.write_json(folder / "export.json", {"weights": str(weights), "pack": str(job.pack.path), "files": measured})
    return good
