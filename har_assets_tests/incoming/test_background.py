"""Work in a thread that gives items to another one."""

import threading
import time
from collections.abc import Callable

import pytest

from har_assets.incoming.background import in_background


def test_work_in_the_background_goes_on_raises_and_ends() -> None:
    enough, ended = threading.Event(), threading.Event()

    def numbers(give: Callable[[int], None]) -> None:
        for number in range(1000):
            give(number)
        raise KeyError("the end")

    items = in_background(numbers, enough)
    assert next(items) == 0
    with pytest.raises(KeyError, match="the end"):
        list(items)

    def endless(give: Callable[[int], None]) -> None:
        try:
            while True:
                give(1)
        finally:
            ended.set()

    items = in_background(endless, threading.Event())
    assert next(items) == 1
    items.close()
    assert ended.is_set()


def test_work_in_the_background_is_not_far_ahead() -> None:
    given: list[int] = []

    def numbers(give: Callable[[int], None]) -> None:
        for number in range(100):
            given.append(number)
            give(number)

    items = in_background(numbers, threading.Event(), ahead=5)
    assert next(items) == 0
    time.sleep(0.1)
    assert len(given) <= 7, "one used, five waiting, one at hand"
    assert list(items) == list(range(1, 100))
