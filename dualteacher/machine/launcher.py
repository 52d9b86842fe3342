"""A job starts its own processes (`runtime.processes`), with torch's launcher, as `torchrun` does by hand."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dualteacher.machine.slots import LAUNCHED

LINGER = 1.0  # seconds


def needed(processes: int) -> bool:
    """Whether this process is to start others: not if the launcher or torchrun has started it."""
    return processes > 1 and "WORLD_SIZE" not in os.environ


def run(program: Callable[[], object], processes: int) -> None:
    """Run `program`, importable by name, in so many processes until all have ended.

    SystemExit with the exit code of the process that failed first, or 128 + n if signal n ended it; it has said why.
    The kernel interrupts the processes of a launcher that is killed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=str(os.getpid()), max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        start_method="spawn", signals_to_handle="SIGHUP,SIGQUIT",
    )  # fmt: skip
    os.environ[LAUNCHED] = str(os.getpid())
    logging.disable(logging.ERROR)  # torch's words about processes that have said in one line what was wrong
    try:
        with handing_on():
            elastic_launch(config, in_session)(program)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        raise SystemExit(code if code >= 0 else 128 - code) from None
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[LAUNCHED]


@contextmanager
def handing_on() -> Iterator[None]:
    """SIGTERM and SIGINT go to the processes, whose run saves and ends; so does this one, then.

    Torch's launcher would wait half a minute and kill them.
    """

    def hand_on(number: int, _frame: FrameType | None) -> None:
        started = multiprocessing.active_children()
        if not started:
            raise SystemExit(128 + number)
        for process in started:
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_session(program: Callable[[], object]) -> None:
    """Run it in a session of its own, so that Ctrl-C reaches it once, through the launcher."""
    os.setsid()
    try:
        program()
    except SystemExit as end:
        if end.code and os.environ["RANK"] != "0":
            time.sleep(LINGER)  # the launcher ends the others when the first has failed: rank 0 has a status to write
        raise
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
