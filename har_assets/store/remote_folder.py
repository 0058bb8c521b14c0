"""A folder of objects in a bucket, by fsspec, and what its server answers in words.

Keys and endpoint come from the environment, by the names that all tools for S3 use: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from har_assets.errors import StorageAwayError, StorageError

PARTS_AT_ONCE = 8
"""So that a connection's delay does not limit the rate."""

PART_BYTES = 16 * 2**20
"""A large file moves in parts of this size; PARTS_AT_ONCE of them bound the memory, 128 MiB."""

MOST_PARTS = 10_000
"""S3 takes no more parts of one file: larger files get larger parts."""

S3_OPTIONS: dict[str, Any] = {
    # Another machine may have written a moment ago.
    "use_listings_cache": False,
    "max_concurrency": PARTS_AT_ONCE,
    # An address where nobody answers is named after a minute, not after five.
    "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"mode": "standard", "max_attempts": 4}},
}


@dataclass(frozen=True)
class RemoteObject:
    """What a listing says of an object."""

    bytes: int
    written: datetime
    """When it was written, by the clock of the bucket."""


class RemoteFolder:
    """What is below an address such as `s3://bucket/prefix`. Opened when it is first asked for anything.

    Paths are relative to the address, places begin with the bucket.
    """

    def __init__(self, address: str, named_by: str) -> None:
        """`named_by`: the environment variable that names the address, for sentences."""
        self._address = address.rstrip("/")
        self._named_by = named_by

    @property
    def address(self) -> str:
        """Where it lies, without a slash at its end."""
        return self._address

    def address_of(self, place: str) -> str:
        """Address of a place."""
        return f"{self._address.partition('://')[0]}://{place}"

    @cached_property
    def _remote(self) -> Any:
        import fsspec

        protocol = self._address.partition("://")[0]
        try:
            return fsspec.filesystem(protocol, **(S3_OPTIONS if protocol in ("s3", "s3a") else {}))
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{self._address} cannot be opened ({error}): `pip install 'har_assets[cluster]'` brings what s3:// "
                "needs."
            ) from None

    def _place(self, *names: str) -> str:
        return "/".join((self._remote._strip_protocol(self._address), *names))

    def objects(self, path: str = "") -> dict[str, RemoteObject]:
        """Every object below the address, or below a path there, by its path from there. Raises StorageError."""
        top = self._place(*filter(None, [path]))
        with self._faults("list"):
            found = self._remote.find(top, detail=True)
        self._refuse_missing_bucket(found)
        with self._faults("list"):
            return {
                place.removeprefix(f"{top}/"): RemoteObject(
                    int(entry["size"] or 0), entry.get("LastModified") or self._remote.modified(place)
                )
                for place, entry in found.items()
                if entry["type"] == "file"  # s3fs asks again for what is empty, and may find a new folder then
            }

    def listing(self, path: str = "") -> dict[str, int]:
        """As `objects`, their bytes alone."""
        return {place: found.bytes for place, found in self.objects(path).items()}

    def size(self) -> int:
        """Bytes of all objects together. Raises StorageError."""
        return sum(self.listing().values())

    def folders(self, path: str) -> set[str]:
        """Names of the folders directly below a path. Raises StorageError."""
        with self._faults("list"):
            try:
                entries = self._remote.ls(self._place(path), detail=True)
            except FileNotFoundError:
                entries = []
        self._refuse_missing_bucket(entries)
        return {PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "directory"}

    def exists(self, path: str) -> bool:
        """Whether there is an object at a path. Raises StorageError."""
        with self._faults("list"):
            return bool(self._remote.exists(self._place(path)))

    def read_object(self, path: str) -> bytes | None:
        """Content of a small object, or None where there is none. Raises StorageError."""
        with self._faults("read"):
            try:
                return bytes(self._remote.cat_file(self._place(path)))
            except FileNotFoundError:
                self._refuse_missing_bucket(())
                return None

    def read_part(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of an object; empty where there is none, fewer where it ends. Raises StorageError."""
        with self._faults("read"):
            try:
                return bytes(self._remote.cat_file(self._place(path), start=start, end=end))
            except FileNotFoundError:
                self._refuse_missing_bucket(())
                return b""

    def write_object(self, path: str, content: bytes) -> None:
        """Write a small object. Raises StorageError."""
        with self._faults("write"):
            self._remote.pipe_file(self._place(path), content)

    def create_object(self, path: str, content: bytes) -> bool:
        """Write a small object where there is none, as one alone of all who try; False where there is another one.

        Raises StorageError, also where the server writes over an object that it was asked to leave.
        """
        made = self._create(path, content)
        if made and self._create(path, b""):
            raise StorageError(
                f"{self._address} writes over an object where `If-None-Match: *` forbids it, so that promotions and "
                "prunes of two machines could meet: use a server that knows conditional PUTs (S3, MinIO, R2)."
            )
        return made

    def _create(self, path: str, content: bytes) -> bool:
        with self._faults("write"):
            try:
                self._remote.pipe_file(self._place(path), content, mode="create")
            except OSError as error:
                answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
                if isinstance(error, FileExistsError) or answer.get("HTTPStatusCode") in (409, 412):
                    # An answer may be lost on its way, and the request be sent again.
                    return bool(self.read_object(path) == content)
                raise
        return True

    def remove_objects(self, paths: Iterable[str]) -> None:
        """Remove objects; those that are gone already do not matter. Raises StorageError."""

        def remove_one(path: str) -> None:
            with self._faults("remove"), contextlib.suppress(FileNotFoundError):
                self._remote.rm_file(self._place(path))

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            list(pool.map(remove_one, paths))

    def remove_folder(self, path: str) -> None:
        """Remove every object below a path. Raises StorageError."""
        with self._faults("remove"):
            self._remote.rm(self._place(path), recursive=True)

    def upload(self, file: Path, path: str, size: int) -> None:
        """Write a file of `size` bytes, a large one in parts. Raises StorageError."""
        part = max(PART_BYTES, -(-size // MOST_PARTS))
        options = {"chunksize": part} if "s3" in self._remote.protocol else {}
        with self._faults("write"):
            self._remote.put_file(str(file), self._place(path), **options)

    def copy_object(self, source: str, target: str) -> None:
        """Copy an object to another path without reading it. Raises StorageError."""
        with self._faults("write"):
            self._remote.cp_file(self._place(source), self._place(target))

    def try_out(self) -> float:
        """List, write, read and remove a small object; seconds that it took. Raises StorageError."""
        start = time.monotonic()
        path = f".har-doctor-{secrets.token_hex(6)}"
        self.folders(path)
        self.create_object(path, b"har")
        read = self.read_object(path)
        self.remove_objects([path])
        if read != b"har":
            raise StorageError(f"{self._address} did not give back what was written a moment ago: it cannot be used.")
        return time.monotonic() - start

    def _refuse_missing_bucket(self, found: Iterable[Any]) -> None:
        """An object that is not there, and a bucket that is not there, look the same."""
        bucket = self._place().split("/")[0]
        if not found and self._remote.protocol not in ("memory", ("memory",)):
            with self._faults("list"):
                if not self._remote.exists(bucket):
                    raise StorageError(
                        f"There is no bucket {bucket}: correct {self._address} ({self._named_by}) or make the bucket."
                    )

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Say in a sentence what the bucket answered, or that it did not."""
        kinds: tuple[type[Exception], ...] = (OSError,)
        if "s3" in self._remote.protocol:
            from aiohttp import ClientError as NoAnswerError
            from botocore.exceptions import BotoCoreError, ClientError

            kinds = (OSError, BotoCoreError, ClientError, NoAnswerError)
        try:
            yield
        except kinds as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
                raise StorageError(
                    f"{self._address} does not let this machine {doing} ({said}): check AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, and what that key may do there."
                ) from error
            raise StorageAwayError(
                f"{self._address} cannot be reached, or failed ({said}): check AWS_ENDPOINT_URL, the network and the "
                "server, then run the same command again."
            ) from error
