"""Work in a thread of its own that gives items, a little ahead of those who use them."""

import contextlib
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from queue import Full, Queue
from typing import TypeVar

Item = TypeVar("Item")

AHEAD = 256
"""Items that wait to be used."""


def in_background(
    work: Callable[[Callable[[Item], None]], None], enough: threading.Event, ahead: int = AHEAD
) -> Generator[Item, None, None]:
    """The items that `work` gives to the function it is called with; it runs in a thread of its own.

    It is at most `ahead` items ahead of what is used here. What it raises is raised here after its last item. Closing
    this one sets `enough`, lets the next item that `work` gives end it with CancelledError, and waits for that.
    """
    queue: Queue[tuple[Item, ...]] = Queue(ahead)

    def put(item: tuple[Item, ...]) -> None:
        while not enough.is_set():
            with contextlib.suppress(Full):
                queue.put(item, timeout=0.5)  # nobody takes items out any more when `enough` is set
                return

    def give(item: Item) -> None:
        put((item,))
        if enough.is_set():
            raise CancelledError

    def run() -> None:
        try:
            work(give)
        finally:
            put(())

    with ThreadPoolExecutor(1, thread_name_prefix="predictions") as pool:
        running = pool.submit(run)
        try:
            while found := queue.get():
                yield found[0]
            running.result()
        finally:
            enough.set()
