"""Iteration with one item prepared ahead."""

import threading
from collections.abc import Iterator

import pytest

from trm.utils.prefetch import prefetched


def test_items_are_in_order() -> None:
    assert list(prefetched(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(prefetched(iter([None, None]))) == [None, None]
    assert list(prefetched(iter(()))) == []


def test_the_next_item_is_computed_while_one_is_used() -> None:
    computed = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        computed.set()
        yield 1

    for item in prefetched(items()):
        assert item or computed.wait(10)


def test_an_error_reaches_the_consumer_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise OSError("no such file")

    seen = prefetched(items())
    assert next(seen) == 0
    with pytest.raises(OSError, match="no such file"):
        next(seen)


def test_a_consumer_may_stop_early() -> None:
    seen = prefetched(iter(range(10**9)))
    assert next(seen) == 0
    seen.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
