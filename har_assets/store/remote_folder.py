"""A folder of objects in a bucket, by fsspec, and what its server answers in words.

Keys and endpoint come from the environment, by the names that all tools for S3 use: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, ClassVar

from har_assets.errors import StorageAwayError, StorageError

PARTS_AT_ONCE = 8
"""So that a connection's delay does not limit the rate."""

S3_OPTIONS: dict[str, Any] = {
    # Another machine may have written a moment ago.
    "use_listings_cache": False,
    "max_concurrency": PARTS_AT_ONCE,
    # An address where nobody answers is named after a minute, not after five.
    "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"mode": "standard", "max_attempts": 4}},
}


class RemoteFolder:
    """What is below an address such as `s3://bucket/prefix`. Opened when it is first asked for anything."""

    _address: str
    """Without a slash at its end."""
    _named_by: ClassVar[str]
    """Environment variable that names the address, for sentences."""

    @property
    def address(self) -> str:
        """Where it lies."""
        return self._address

    def address_of(self, place: str) -> str:
        """Address of a path inside the bucket."""
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

    def _read(self, place: str) -> bytes | None:
        """Content of a small object, or None where there is none."""
        with self._faults("read"):
            try:
                return bytes(self._remote.cat_file(place))
            except FileNotFoundError:
                self._refuse_missing_bucket(())
                return None

    def listing(self) -> dict[str, int]:
        """Path below the address to bytes, of every object. Raises StorageError."""
        top = self._place()
        with self._faults("list"):
            found = self._remote.find(top, detail=True)
        self._refuse_missing_bucket(found)
        return {path.removeprefix(f"{top}/"): int(entry["size"] or 0) for path, entry in found.items()}

    def read_object(self, path: str) -> bytes | None:
        """Content of a small object at a path below the address, or None where there is none. Raises StorageError."""
        return self._read(self._place(path))

    def write_object(self, path: str, content: bytes) -> None:
        """Write a small object at a path below the address. Raises StorageError."""
        with self._faults("write"):
            self._remote.pipe_file(self._place(path), content)

    def remove_objects(self, paths: Iterable[str]) -> None:
        """Remove objects at paths below the address; those that are gone already do not matter. Raises StorageError."""

        def remove_one(path: str) -> None:
            with self._faults("remove"), contextlib.suppress(FileNotFoundError):
                self._remote.rm_file(self._place(path))

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            list(pool.map(remove_one, paths))

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
