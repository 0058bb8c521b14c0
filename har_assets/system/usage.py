"""The cost of a piece of work: seconds, memory of this process and its children, the GPUs of the machine.

A thread looks every second. Memory is anonymous memory, so that what is mapped from files (frame caches, models) and
can be given back at any time does not count; a peak shorter than a second may be missed. GPUs are asked through the
driver's own library, without a framework, and as a whole: what others do on them is in the figures, too.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

INTERVAL_S = 1.0
"""Seconds between two looks."""


@dataclass
class Usage:
    """Filled while the work goes on; read it afterwards."""

    seconds: float = 0.0
    memory_bytes: int = 0
    """Most anonymous memory of the process and all its descendants together."""
    gpu_memory_bytes: int | None = None
    """Most memory in use on any GPU; None without one."""
    gpu_percents: list[float] = field(default_factory=list)
    """Mean share of time in which the GPUs computed, at each look, 0 to 100."""

    def figures(self, clips: int = 0) -> dict[str, float]:
        """Numbers to plot over time; `clips` that were worked on give clips a second."""
        found: dict[str, float] = {"seconds": round(self.seconds, 2), "memory_mb": round(self.memory_bytes / 1e6, 1)}
        if clips:
            found["clips_per_second"] = round(clips / max(self.seconds, 1e-9), 2)
        if self.gpu_memory_bytes is not None:
            found["gpu_memory_mb"] = round(self.gpu_memory_bytes / 1e6, 1)
        if self.gpu_percents:
            found["gpu_utilisation_percent"] = round(sum(self.gpu_percents) / len(self.gpu_percents), 1)
        return found


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure what is done in the block."""
    usage, started, ended = Usage(), time.monotonic(), threading.Event()
    gpus = Gpus.open()

    def look() -> None:
        usage.memory_bytes = max(usage.memory_bytes, anonymous_bytes(os.getpid()))
        if gpus and (seen := gpus.look()):
            memory, percent = seen
            usage.gpu_memory_bytes = max(usage.gpu_memory_bytes or 0, memory)
            usage.gpu_percents.append(percent)

    def watch() -> None:
        while not ended.wait(INTERVAL_S):
            look()

    look()
    thread = threading.Thread(target=watch, name="usage", daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        ended.set()
        thread.join()
        look()
        usage.seconds = time.monotonic() - started


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process and all its descendants, in bytes; 0 for one that has ended."""
    import psutil

    total = 0
    with suppress(psutil.Error):  # it has ended
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                memory = one.memory_info()
                total += memory.rss - memory.shared
    return total


class Gpus:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, through NVML."""

    def __init__(self, devices: list[Any]) -> None:
        self._devices = devices

    @classmethod
    def open(cls) -> "Gpus | None":
        """None without a GPU or its driver."""
        import pynvml

        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError:
            return None
        devices = []
        for name in visible_devices(count):
            find = pynvml.nvmlDeviceGetHandleByIndex if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID
            with suppress(pynvml.NVMLError):  # a UUID of another machine, or of a part of a GPU
                devices.append(find(int(name) if name.isdecimal() else name))
        return cls(devices) if devices else None

    @property
    def name(self) -> str:
        """The first one and its driver, such as `NVIDIA H100 80GB HBM3, 570.124.06`."""
        import pynvml

        return f"{pynvml.nvmlDeviceGetName(self._devices[0])}, {pynvml.nvmlSystemGetDriverVersion()}"

    def memory_bytes(self) -> list[int]:
        """Memory in use on each GPU that tells it, by all processes."""
        import pynvml

        used = []
        for device in self._devices:
            with suppress(pynvml.NVMLError):
                used.append(int(pynvml.nvmlDeviceGetMemoryInfo(device).used))
        return used

    def look(self) -> tuple[int, float] | None:
        """Most memory in use on one of them, in bytes, and their mean utilisation in per cent; None if unknown."""
        import pynvml

        used, percents = self.memory_bytes(), []
        for device in self._devices:
            with suppress(pynvml.NVMLError):  # not every GPU tells each
                percents.append(float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu))
        return (max(used), sum(percents) / len(percents)) if used and percents else None


def visible_devices(count: int) -> list[str]:
    """Numbers or UUIDs of the GPUs that CUDA would use, of `count` that there are."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(count)]
    names = []
    for name in (part.strip() for part in chosen.split(",")):
        if not name or name.startswith("-") or (name.isdecimal() and int(name) >= count):
            break  # as CUDA does: what comes after an invalid one is not seen
        names.append(name)
    return names
