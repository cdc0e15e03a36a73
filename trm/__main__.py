"""The command `trm`, also `python -m trm`. Signals are handled before the imports, which take a while."""

import os
import signal
from types import FrameType
from typing import NoReturn

from trm.utils.stop_signals import handled_signals


def main() -> NoReturn:
    """Run the command line `trm`."""
    for number in handled_signals():
        signal.signal(number, _exit)
    from trm.cli.main import main as run

    run()


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    """End the process at once: it has written nothing yet."""
    os._exit(128 + number)


if __name__ == "__main__":
    main()
