"""Exceptions that the command line reports in one line."""

RESUME = "run the same command again to resume"


class UserError(Exception):
    """A problem that the user can fix: one line that says what, where and what to do.

    The command line prints it as ``error: …`` without a traceback and exits with 2. Any other exception is a bug and
    keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Interrupted(Exception):
    """A run stopped on request with its state saved; the same command resumes it. Exit code 75."""
