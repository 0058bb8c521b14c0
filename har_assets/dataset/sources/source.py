"""A source of data: how it is identified cheaply, and how it becomes a raw_archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets.dataset.dvc import DvcRepository
from har_assets.store.product import Build, Product
from har_assets.store.protocol import Store
from har_assets.system.files import Log, silent


@dataclass(frozen=True)
class Request:
    """A request to raw_archive. Each source takes what it needs of it."""

    source: str
    """A name of the table, or an absolute path."""
    project: Path
    """Project folder."""
    store: Store
    dvc: DvcRepository
    split_lists: str = ""
    """Path of an archive or folder of split lists; empty: there are none."""
    names_code_page: str = ""
    """Code page of names that an archive does not mark as UTF-8; empty: see `extract_videos`."""
    label: str = "auto"
    """What names the class of a video in a source of one's own: `auto`, `parent`, `top` or `csv`."""
    archive_urls: Sequence[str] = ()
    """Mirrors of the archive; empty takes the home page of the data set."""
    split_lists_urls: Sequence[str] = ()
    """Mirrors of the split lists; empty takes the home page of the data set."""
    download_hosts: Sequence[str] = ()
    """Hosts, besides those of the mirrors, to which a download may be redirected."""
    sha256: str = ""
    """SHA-256 that the archive must have; empty: the source knows."""
    workers: int | None = None
    """Processes that make the archive; None takes one a core."""
    log: Log = silent
    warn: Log = silent
    """Takes what a person should look at."""


@dataclass(frozen=True)
class Source:
    """One kind of source."""

    identity: Callable[[Request], dict[str, Any]]
    """The facts that decide the content, JSON-ready and cheap: a version, an address, or hashes. Raises HarError."""
    build: Callable[[Build, Request], Product]
    """Put the archive into the folder of the build, or point to it; say so by `archive_product`. Raises HarError."""


def archive_product(
    request: Request,
    *,
    dataset: str,
    archive: str,
    split_lists: str,
    size: int,
    synthetic: bool = False,
    downloads: Sequence[dict[str, Any]] = (),
) -> Product:
    """A raw_archive, as all that reads one expects it.

    Args:
        request: what was asked for.
        dataset: name of the data set.
        archive: name of the archive in the folder of the product, or an absolute path.
        split_lists: the same of the split lists; empty where there are none.
        size: bytes of the archive.
        synthetic: nothing of it was filmed.
        downloads: name, address, bytes and hashes of each file that was downloaded.
    """
    return Product(
        headline=f"{dataset}: {size / 1e6:.1f} MB" + (" (synthetic)" if synthetic else ""),
        metadata={
            "source": request.source,
            "archive": archive,
            "split_lists": split_lists,
            "names_code_page": request.names_code_page,
            "label": request.label.lower(),
            "dataset": dataset,
            "downloads": list(downloads),
        },
        lineage={"dataset": dataset, "synthetic": synthetic},
    )
