"""Source `hmdb51`: the archive and the split lists of HMDB51, downloaded and verified."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from har_assets.dataset.known import HMDB51
from har_assets.dataset.sources.source import Request, Source, archive_product
from har_assets.store.product import Build, Product
from har_assets.store.protocol import Store
from har_assets.system.confinement import confined

ARCHIVE_URLS: tuple[str, ...] = (
    "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar",
    "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar",
)
"""The archive of all clips, 2.1 GB. The https host has at times had an invalid certificate; the hash makes
the plain one safe to use."""

ARCHIVE_MD5 = "517d6f1f19f215c45cdd4d25356be1fb"
"""MD5 of hmdb51_org.rar. The authors publish none; this is what two projects independently expect, among them
DeepMind's brave (`brave/download_hmdb.py`)."""

SPLITS_URLS: tuple[str, ...] = (
    "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/test_train_splits.rar",
    "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/test_train_splits.rar",
)
"""The 153 official split lists, 0.2 MB."""

SPLITS_MD5 = "15e67781e70dcfbdce2d7dbb9b3344b5"
"""MD5 of test_train_splits.rar, as torchvision expects it."""

ARCHIVE_NAME = "hmdb51_org.rar"
SPLITS_NAME = "test_train_splits.rar"


def identity(request: Request) -> dict[str, Any]:
    """The month in which it was published: it has never changed since."""
    return {"hmdb51": "2013-10"}


def build(build: Build, request: Request) -> Product:
    """Fetch both archives into the store's work folder, then link them into the folder of the build."""
    from har_assets.dataset.download import download

    for url in (*request.archive_urls, *request.split_lists_urls):
        if not url.startswith(("http://", "https://")):
            confined(Path(unquote(urlsplit(url).path)), request.project, "a mirror of raw_archive")
    work = request.store.root / "raw_archive" / ".downloads"
    work.mkdir(parents=True, exist_ok=True)
    trusted = request.sha256 or _recorded_sha256(request.store)
    archive = download(
        request.archive_urls or ARCHIVE_URLS,
        work / ARCHIVE_NAME,
        sha256=trusted or None,
        md5=None if trusted or request.archive_urls else ARCHIVE_MD5,
        log=request.log,
        redirect_hosts=request.download_hosts,
    )
    lists = download(
        request.split_lists_urls or SPLITS_URLS,
        work / SPLITS_NAME,
        md5=SPLITS_MD5,
        log=request.log,
        redirect_hosts=request.download_hosts,
    )
    for result in (archive, lists):
        os.link(result.path, build.folder / result.path.name)
    if archive.md5 != ARCHIVE_MD5:
        request.warn(f"{ARCHIVE_NAME} is not the archive of 2013: its SHA-256 is {archive.sha256}")
    return archive_product(
        request,
        dataset=HMDB51.name,
        archive=ARCHIVE_NAME,
        split_lists=SPLITS_NAME,
        size=archive.size,
        downloads=[
            {"file": got.path.name, "url": got.url, "bytes": got.size, "sha256": got.sha256, "md5": got.md5}
            for got in (archive, lists)
        ],
    )


def _recorded_sha256(store: Store) -> str:
    """SHA-256 of the archive that any published raw_archive holds; empty where it was never downloaded."""
    for published in store.versions("raw_archive"):
        if published.record.metadata.get("source") == HMDB51.name and ARCHIVE_NAME in published.record.files:
            return str(published.record.files[ARCHIVE_NAME]["sha256"])
    return ""


SOURCE = Source(identity, build)
