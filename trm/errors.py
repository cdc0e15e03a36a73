"""The two ways in which the project fails: by a mistake of its user, or by a fault."""


class UserError(ValueError):
    """A mistake that the user can mend: the command line prints it as one line and exits with code 2.

    The message says what is wrong, where, and the remedy.
    """


class ParamsError(UserError):
    """`params.yaml` (or settings that travel inside an artifact) cannot be used."""


class DataError(UserError):
    """A file of puzzles, a data set or a checkpoint is missing, broken or breaks the rules."""
