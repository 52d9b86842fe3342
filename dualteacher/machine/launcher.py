"""Start a job's processes (`runtime.processes`) with torch's launcher, like `torchrun`."""

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

from dualteacher.machine.gpu_slots import LAUNCHED

LINGER = 1.0  # seconds that a failed rank waits for rank 0


def needed(processes: int) -> bool:
    """Whether to start processes: not inside one that the launcher or torchrun has started."""
    return processes > 1 and "WORLD_SIZE" not in os.environ


def run(program: Callable[[], object], processes: int) -> None:
    """Run `program` (importable by name) in `processes` processes and wait for all of them.

    Raises SystemExit with the exit code of the first process to fail, or 128 + n if signal n killed it. If this
    launcher is killed, the kernel interrupts its processes.
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
    logging.disable(logging.ERROR)  # torch's report: the failed processes have already printed one line each
    try:
        with forwarding_signals():
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
def forwarding_signals() -> Iterator[None]:
    """Forward SIGTERM and SIGINT to the processes, which save and exit; the launcher then exits too.

    torch's own handler would kill them after 30 seconds.
    """

    def forward(number: int, _frame: FrameType | None) -> None:
        started = multiprocessing.active_children()
        if not started:
            raise SystemExit(128 + number)
        for process in started:
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_session(program: Callable[[], object]) -> None:
    """Run `program` in its own session, so that Ctrl-C reaches it only once, through the launcher."""
    os.setsid()
    try:
        program()
    except SystemExit as end:
        if end.code and os.environ["RANK"] != "0":
            time.sleep(LINGER)  # the launcher kills the others once one has failed: let rank 0 write its status
        raise
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
