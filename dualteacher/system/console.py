"""Logging and progress: bars on a terminal, plain lines elsewhere, and a log file."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_bars: bool | None = None  # inside `embedded`: whether to draw progress bars
logger = logging.getLogger("dualteacher")


class LogFile(logging.FileHandler):
    """A log file that ignores I/O errors such as a full disk; writing the run's outputs reports those."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def start(log: Path | None = None) -> None:
    """Send log messages to stderr and, with `log`, to that file too, which is overwritten. Rank 0 only."""
    logger.setLevel(logging.INFO if is_rank_zero() else logging.WARNING)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if _bars is not None:
        handlers[0].addFilter(lambda record: record.levelno >= logging.WARNING)  # tqdm's redirection keeps filters
    if log is not None and is_rank_zero():
        log.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(LogFile(log, mode="w", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)


@contextmanager
def embedded(bars: bool) -> Iterator[None]:
    """Inside a Python session or a notebook: only warnings go to stderr, and progress bars if `bars` is set."""
    global _bars
    before, _bars = _bars, bars
    try:
        yield
    finally:
        _bars = before
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def use_utf8() -> None:
    """Write UTF-8 to stdout and stderr in any locale; what UTF-8 cannot express becomes an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests and notebooks may replace the streams
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def is_rank_zero() -> bool:
    """False only in the processes with RANK > 0 that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


def record(text: str) -> None:
    """Append to the log file only, for text that is printed elsewhere."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            with suppress(OSError):  # a full disk
                handler.stream.write(text + "\n")
                handler.flush()


def interactive() -> bool:
    """Whether to draw progress bars: on a terminal, unless several jobs share it (DUALTEACHER_PROGRESS=lines)."""
    if _bars is not None:
        return _bars
    return is_rank_zero() and sys.stderr.isatty() and os.environ.get("DUALTEACHER_PROGRESS") != "lines"


def progress(items: Iterable[Item], description: str, total: int | None = None, unit: str = "it") -> Iterator[Item]:
    """Iterate with a progress bar and ETA, or else a log line every ten seconds."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if interactive():
        yield from tqdm(items, desc=description, total=total, unit=unit, dynamic_ncols=True, leave=False)
        return
    began = reported = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if now - reported >= 10 and number:
            reported = now
            logger.info(line(description, number, total, now - began, unit))
        yield item


def line(description: str, done: int, total: int | None, seconds: float, unit: str = "it") -> str:
    """Progress as text: "train 40/150, 3.1 it/s, 35 s left"."""
    rate = done / max(seconds, 1e-9)
    text = f"{description} {done}" + (f"/{total}" if total else "") + f", {rate:.3g} {unit}/s"
    if total:
        text += f", {duration((total - done) / max(rate, 1e-9))} left"
    return text


def duration(seconds: float) -> str:
    """Duration as "58 s", "12 min" or "3 h 20 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
