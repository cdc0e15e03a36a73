"""Findings of the commands `doctor`: what was tried, the result, and the remedy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trm.utils.errors import InternalError, UserError
from trm.utils.file_formats import printable, shorten
from trm.utils.os_errors import explain

STATES = {True: "ok     ", False: "PROBLEM", None: "skipped"}


class NotCheckedError(Exception):
    """A check is not possible; the message is the reason."""


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    name: str
    text: str
    """What was found, or what is wrong and the remedy, or why nothing was checked."""
    is_ok: bool | None
    """None: not checked."""


def check(name: str, function: Callable[[], str]) -> Finding:
    """Return the finding of `function`, which returns what it found.

    Its `UserError`, `InternalError` or `OSError` is a problem, and `NotCheckedError` means that nothing was checked.
    """
    try:
        return Finding(name, function(), is_ok=True)
    except NotCheckedError as error:
        return Finding(name, str(error), is_ok=None)
    except (UserError, InternalError) as error:
        return Finding(name, str(error), is_ok=False)
    except OSError as error:
        return Finding(name, str(explain(error)), is_ok=False)


def print_findings(findings: Iterable[Finding]) -> int:
    """Print each finding as one line as soon as it is known, then their number; return the number of problems."""
    problems = 0
    for finding in findings:
        problems += finding.is_ok is False
        print(printable(shorten(f"{STATES[finding.is_ok]} {finding.name}: {finding.text}")), flush=True)
    print(f"{problems or 'no'} problem{'s' * (problems != 1)}")
    return problems
