"""The exceptions that the command line reports in one line."""


class UserError(ValueError):
    """A mistake of the user; the command line prints the message and exits with code 2.

    The message has one line: what is wrong, where, and the remedy.
    """


class ParamsError(UserError):
    """Invalid settings, in `params.yaml` or in an artifact."""


class DataError(UserError):
    """A missing, damaged or inconsistent file: puzzles, a dataset or a checkpoint."""


class InternalError(RuntimeError):
    """A failure that is not the user's mistake; the command line prints the message and exits with code 1."""


class Interrupted(BaseException):
    """SIGTERM, SIGINT or SIGHUP was received; the command line exits with code 128 + `signal`."""

    def __init__(self, signal: int, note: str = "", reason: str = "") -> None:
        """note: what the command has saved. reason: why it stopped, if not by the signal."""
        super().__init__((reason or f"stopped by signal {signal}") + (f"; {note}" if note else ""))
        self.signal, self.note, self.reason = signal, note, reason


def exit_code(error: UserError | InternalError | Interrupted) -> int:
    """Exit code of a command: 2 for a user's mistake, 1 for an internal error, 128 + n for signal n."""
    if isinstance(error, Interrupted):
        return 128 + error.signal
    return 2 if isinstance(error, UserError) else 1
