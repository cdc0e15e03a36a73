"""The two ways in which the project fails: by a mistake of its user, or by a fault."""


class UserError(ValueError):
    """A mistake that the user can mend: the command line prints it as one line and exits with code 2.

    The message says what is wrong, where, and the remedy.
    """


class ParamsError(UserError):
    """`params.yaml` (or settings that travel inside an artifact) cannot be used."""


class DataError(UserError):
    """A file of puzzles, a data set or a checkpoint is missing, broken or breaks the rules."""


class InternalError(RuntimeError):
    """Work that cannot go on although nobody made a mistake: one line, exit code 1."""


class Interrupted(BaseException):
    """SIGTERM or SIGINT arrived; the command line exits with 128 + `signal`."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def exit_code(error: UserError | InternalError | Interrupted) -> int:
    """What a command ends with: 2 for a user's mistake, 1 for a fault, 128 + n after signal n."""
    if isinstance(error, Interrupted):
        return 128 + error.signal
    return 2 if isinstance(error, UserError) else 1
