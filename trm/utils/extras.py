"""Packages that only an extra of the project installs."""

from collections.abc import Iterator
from contextlib import contextmanager

from trm.utils.errors import UserError


@contextmanager
def packages_of_extra(extra: str, command: str) -> Iterator[None]:
    """Raise `UserError` if an import in the block finds a package missing, which the extra of that name installs."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "trm":
            raise
        install = f"pip install 'trm[{extra}]'"
        raise UserError(f"{command} requires the package {error.name}; install it with `{install}`") from None
