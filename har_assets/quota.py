"""How much room the products may take together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from har_assets.errors import HarError
from har_assets.hmdb51._files import format_bytes

QUOTA_VARIABLE = "HAR_STORE_QUOTA"
"""Environment variable: largest size of the store, such as `200 GB`."""

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


@dataclass(frozen=True)
class Quota:
    """The most that the files below a folder, or the objects below an address, may take together."""

    root: Path | str
    """Folder or address."""
    bytes: int
    measure: Callable[[], int] | None = field(default=None, compare=False, repr=False)
    """Bytes below an address; folders are measured here."""

    @classmethod
    def of(cls, root: Path | str, size: str = "", measure: Callable[[], int] | None = None) -> Self | None:
        """The quota of a store: `size`, or what HAR_STORE_QUOTA says; None where neither says anything.

        HarError for what is no size.
        """
        text = size or os.environ.get(QUOTA_VARIABLE, "")
        return cls(root, parse_size(text), measure) if text.strip() else None

    def used(self) -> int:
        """Bytes that are taken now; of an address by one listing. Raises StorageError."""
        return self.measure() if self.measure else size_of(Path(self.root))

    def refuse_when_full(self, asset: str, adding: int = 0) -> None:
        """HarError when the store, with so many bytes more, is larger than the quota."""
        used = self.used() + adding
        if used > self.bytes:
            raise HarError(
                f"{asset} is not published, as {self.root} holds {format_bytes(used)} with it and its quota is "
                f"{format_bytes(self.bytes)}: run `har prune`, which shows what can go, or raise {QUOTA_VARIABLE}."
            )


def parse_size(text: str) -> int:
    """`200 GB` -> 200_000_000_000, in decimal units or in KiB, MiB, GiB, TiB; HarError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        raise HarError(f"{text!r} is no size: write a number and a unit, such as 200 GB or 1.5 TB.")
    return int(float(match[1]) * UNITS[match[2].upper()])


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; one with several hard links counts once, links to elsewhere not at all."""
    total = 0
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # removed meanwhile
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total
