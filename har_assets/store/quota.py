"""How much room the products may take together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from har_assets import settings
from har_assets.errors import HarError
from har_assets.options import parse_size
from har_assets.system.files import format_bytes, size_of


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
        most = parse_size(size) if size.strip() else settings.read().store_quota
        return None if most is None else cls(root, most, measure)

    def used(self) -> int:
        """Bytes that are taken now; of an address by one listing. Raises StorageError."""
        return self.measure() if self.measure else size_of(Path(self.root))

    def refuse_when_full(self, asset: str, adding: int = 0) -> None:
        """HarError when the store, with so many bytes more, is larger than the quota."""
        used = self.used() + adding
        if used > self.bytes:
            raise HarError(
                f"{asset} is not published, as {self.root} holds {format_bytes(used)} with it and its quota is "
                f"{format_bytes(self.bytes)}: run `har prune`, which shows what can go, or raise "
                f"{settings.STORE_QUOTA}."
            )
