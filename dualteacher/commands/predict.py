"""Predict images with a trained network (`predict`); the weights file contains all settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from dualteacher.inference.predictor import Predictor
from dualteacher.machine.device import keep_freed_memory, pick
from dualteacher.machine.interrupt import listening
from dualteacher.models import named, saved
from dualteacher.prediction import inputs, video
from dualteacher.prediction import options as how
from dualteacher.prediction.options import Options
from dualteacher.prediction.outputs import Look
from dualteacher.prediction.record import Record
from dualteacher.prediction.work import Work
from dualteacher.system import files
from dualteacher.system.console import logger
from dualteacher.system.errors import RESUME, Interrupted


def run(weights: Path, given: Sequence[Path], output: Path, options: Options) -> bool:
    """Predict all unfinished images; return False if some failed.

    Writes masks/, overlays/, confidence/, areas.parquet, errors.csv (if some failed) and done.jsonl, the record of
    finished images. On SIGINT or SIGTERM, finishes the current batch and raises Interrupted.
    """
    path = saved.find(weights)
    model, description = named.load(path)
    inference = how.inference(path, description, options)
    device = pick(options.device)
    keep_freed_memory()
    jobs = inputs.collect(given, output)
    read_video = video.reader() if any(job.video for job in jobs) else None
    predictor = Predictor(model.to(device), inference, options.scales, options.flip)
    palette = how.palette(description["classes"])
    look = Look(palette, options.overlays, options.confidence)
    with closing(Record(output, options.fingerprint(files.sha256(path), palette))) as record, listening() as stop:
        work = Work(predictor, record, look, options, stop)
        failed = work.through(jobs, read_video)
        left_out = record.write_areas(description["classes"])
        record.write_errors((str(failure.file), failure.reason) for failure in failed)
    for failure in failed:
        logger.error("cannot be predicted: %s: %s", " ".join(str(failure.file).split()), failure.reason)
    if left_out:
        logger.info("%s: areas.parquet omits %d images predicted with other weights or options", output, left_out)
    done = work.finished + work.before
    if stop.signal is not None:
        raise Interrupted(f"{output}: {done} images predicted so far; {RESUME}")
    logger.info("%s: %d of %d images predicted", output, done, done + len(failed))
    return not failed
