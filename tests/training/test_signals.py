import os
import signal

import pytest

from trm.training.signals import interruptible
from trm.utils.errors import Interrupted
from trm.utils.stop_signals import handled_signals


def test_signal_is_deferred_until_the_end_of_a_block() -> None:
    done = []
    with interruptible() as interrupts, pytest.raises(Interrupted) as stop:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("the whole block")
        done.append("not this")
    assert done == ["the whole block"]
    assert stop.value.signal == signal.SIGTERM


def test_second_signal_does_not_interrupt_saving() -> None:
    saved = []
    with interruptible() as interrupts, pytest.raises(Interrupted):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
            with interrupts.held():
                os.kill(os.getpid(), signal.SIGTERM)
                saved.append(True)
            raise
    assert saved == [True]


@pytest.mark.parametrize("number", handled_signals())
def test_signals_that_stop_a_command(number: signal.Signals) -> None:
    with interruptible(), pytest.raises(Interrupted) as stop:
        os.kill(os.getpid(), number)
    assert stop.value.signal == number


def test_nohup_stays_in_effect() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_previous_handlers_are_restored() -> None:
    before = tuple(map(signal.getsignal, handled_signals()))
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert tuple(map(signal.getsignal, handled_signals())) == before
