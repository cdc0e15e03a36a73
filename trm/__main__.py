"""The command `trm`, also `python -m trm`. Signals are handled before the imports, which take a while."""

from typing import NoReturn

from trm.utils import launch  # noqa: F401 - records the parent process
from trm.utils.stop_signals import exit_on_signals


def main() -> NoReturn:
    """Run the command line `trm`."""
    exit_on_signals()
    from trm.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
