"""The signals that stop a command."""

import signal


def handled_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT and, unless `nohup` has disabled it, SIGHUP, which a closed terminal sends."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    return numbers if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*numbers, signal.SIGHUP]
