import os
import signal

import pytest

from trm.training.signals import interruptible
from trm.utils.errors import Interrupted


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


def test_previous_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
