"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: one line that says what, where and what to do.

    The command line prints it as ``error: …`` without a traceback and exits with 2. Anything else that
    escapes is a defect of ours and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Interrupted(Exception):
    """A run that was asked to stop and saved its state: the same command goes on. Ends with exit code 75."""
