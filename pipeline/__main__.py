"""`python -m pipeline`. Signals are handled before the imports, which take a while."""

from typing import NoReturn

from trm.utils.stop_signals import exit_on_signals


def main() -> NoReturn:
    """Run the command line `python -m pipeline`."""
    exit_on_signals()
    from pipeline.cli import main as run

    run()


if __name__ == "__main__":
    main()
