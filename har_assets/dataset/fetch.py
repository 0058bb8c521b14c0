"""One attempt to fetch a file: from http, https or a path, going on where the last attempt stopped.

What has arrived is in `.NAME.partial` beside the target, with its origin in `.NAME.partial.json`.
"""

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import requests

from har_assets import settings
from har_assets.errors import DownloadError
from har_assets.system.confinement import allowed_hosts, is_among
from har_assets.system.files import Log, Progress, format_bytes, format_seconds, require_space

_CHUNK_BYTES = 1 << 18
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class DownloadResult:
    """A file that is complete and verified."""

    path: Path
    size: int
    """Bytes."""
    sha256: str
    md5: str
    url: str
    """Where it came from; empty if it lay there already."""
    already_there: bool
    """The target existed with the expected bytes; nothing was fetched."""


class RetryError(Exception):
    """This attempt failed in a way that another may not."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class MirrorError(Exception):
    """This address will not give the file however often it is asked."""


class Hashes:
    """SHA-256 and MD5 of what passes by, hexadecimal."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        self._md5.update(data)

    def update_from(self, path: Path) -> None:
        """Take a whole file."""
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                self.update(data)

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes so far."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """MD5 of all bytes so far."""
        return self._md5.hexdigest()


@dataclass(frozen=True)
class Expected:
    """Facts about a file before it is fetched: bytes and hashes in lower case, None where unknown."""

    size: int | None
    sha256: str | None
    md5: str | None

    @property
    def has_hash(self) -> bool:
        """Whether a forged file would show."""
        return self.sha256 is not None or self.md5 is not None

    def fault(self, size: int, hashes: Hashes) -> str | None:
        """Say what is wrong with a complete file, or None."""
        if self.size is not None and size != self.size:
            return f"it has {size:,} bytes instead of {self.size:,}"
        if self.sha256 is not None and hashes.sha256 != self.sha256:
            return f"its SHA-256 is {hashes.sha256} instead of {self.sha256}"
        if self.md5 is not None and hashes.md5 != self.md5:
            return f"its MD5 is {hashes.md5} instead of {self.md5}"
        return None


@dataclass(frozen=True)
class _Origin:
    """Which version of which address the partial file is the beginning of."""

    url: str
    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """The validator that If-Range may carry: a strong ETag or a date."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def is_of(self, size: int | None, etag: str | None) -> bool:
        """Tell whether an answer may go on where this one stopped, should a server ignore If-Range."""
        return self.size in (None, size) and (self.etag is None or etag is None or self.etag == etag)


class Fetch:
    """Fetches one file, attempt by attempt, from any of its mirrors."""

    def __init__(
        self,
        *,
        target: Path,
        expected: Expected,
        timeout_s: float,
        log: Log,
        log_every_s: float,
        session: requests.Session,
        hosts: set[str],
    ) -> None:
        self._target = target
        self._expected = expected
        self._timeout_s = timeout_s
        self._log = log
        self._log_every_s = log_every_s
        self._session = session
        self._hosts = hosts
        self._partial = target.parent / f".{target.name}.partial"
        self._origin_file = target.parent / f".{target.name}.partial.json"

    def partial_size(self) -> int:
        """Bytes that have arrived."""
        return self._partial.stat().st_size if self._partial.exists() else 0

    def attempt(self, url: str) -> DownloadResult:
        """Fetch what is missing and publish the file.

        Raises:
            RetryError, MirrorError: see there. Errors of requests and urllib3 pass through.
        """
        started = time.monotonic()
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise MirrorError(f"not an address that can be fetched ({error})") from error
        if parts.scheme in ("http", "https"):
            resumed = self._fetch_http(url)
        elif parts.scheme == "file" or "://" not in url:
            resumed = False
            self._copy_file(Path(unquote(parts.path)) if parts.scheme == "file" else Path(url))
        else:
            raise MirrorError(f"{parts.scheme}:// is not supported, only http, https and file")
        result = self._publish(url, resumed)
        seconds = time.monotonic() - started
        self._log(f"{self._target.name}: {format_bytes(result.size)} verified, {format_seconds(seconds)}")
        return result

    def _fetch_http(self, url: str) -> bool:
        """Bring the partial file to its full length; True where an earlier attempt had begun it."""
        origin = self._read_origin()
        offset = self.partial_size()
        headers = {"Accept-Encoding": "identity"}  # Content-Encoding would make byte ranges meaningless
        if offset and origin is not None and origin.validator:
            headers |= {"Range": f"bytes={offset}-", "If-Range": origin.validator}
        elif offset and self._expected.has_hash:  # no validator: the hash will tell
            headers |= {"Range": f"bytes={offset}-"}
        else:
            offset = 0
        self._refuse_host(url)
        hooks = {"response": self._refuse_redirect}  # called before a redirect is followed
        with self._session.get(url, headers=headers, stream=True, timeout=self._timeout_s, hooks=hooks) as response:
            if response.status_code == 416:  # the partial file is as long as the whole one, or longer
                if _content_range(response)[1] == offset:
                    return True
                self._discard()
                raise RetryError("what had arrived does not belong to the file of this server")
            self._refuse_status(response)
            if response.status_code == 206:
                start, total = _content_range(response)
                if start != offset:
                    self._discard()
                    raise RetryError(f"the server sent bytes from {start} on instead of {offset}")
                if origin is not None and not origin.is_of(total, response.headers.get("ETag")):
                    self._discard()
                    raise RetryError("the file is another than before")
            else:
                offset = 0
                length = response.headers.get("Content-Length", "")
                total = int(length) if length.isdecimal() else None
            self._refuse_total(total)
            self._write_origin(_Origin(url, response.headers.get("ETag"), response.headers.get("Last-Modified"), total))
            self._receive(response, offset, total)
        return offset > 0

    def _receive(self, response: requests.Response, offset: int, total: int | None) -> None:
        what = f"downloading {self._target.name}"
        require_space(self._target.parent, (total or offset) - offset, what, DownloadError)
        progress = Progress(what, total, self._log, every_s=self._log_every_s, done=offset)
        arrived = offset
        with self._partial.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            # read1 returns what has come instead of waiting for a full chunk: a cut then costs nothing.
            while data := response.raw.read1(_CHUNK_BYTES, decode_content=False):
                arrived += len(data)
                if total is None and self._expected.size is not None and arrived > self._expected.size:
                    raise MirrorError(f"it sends more than the expected {self._expected.size:,} bytes")
                file.write(data)
                progress.add(len(data))
        if total is not None and arrived < total:
            raise RetryError(f"the connection ended at {arrived:,} of {total:,} bytes")

    def _refuse_host(self, url: str) -> None:
        allowed = allowed_hosts()
        if allowed is not None and not is_among(url, allowed):
            raise MirrorError(
                f"its host is not among those that {settings.DOWNLOAD_HOSTS} allows ({', '.join(sorted(allowed))})"
            )

    def _refuse_redirect(self, response: requests.Response, *_: object, **__: object) -> None:
        if not response.is_redirect:
            return
        try:
            target = urljoin(response.url, response.headers["Location"])
            parts = urlsplit(target)
            known = is_among(target, allowed_hosts() or self._hosts)
        except ValueError:
            raise MirrorError("it redirects to what is no address") from None
        if parts.scheme not in ("http", "https"):
            raise MirrorError(f"it redirects to a {parts.scheme or 'nameless'} address, which is never followed")
        if not known:
            raise MirrorError(
                f"it redirects to another host, {parts.netloc.rpartition('@')[2]}: add that to download_hosts if you "
                "trust it"
            )
        if parts.scheme == "http" and response.url.startswith("https:") and not self._expected.has_hash:
            raise MirrorError("it redirects from https to http, and no hash is known that would show a forged file")

    def _refuse_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status in (200, 206):
            content_type = response.headers.get("Content-Type", "")
            if content_type.startswith("text/html") and self._target.suffix not in (".html", ".htm"):
                raise MirrorError("it answers with a web page instead of the file")
            return
        reason = f"it answers {status} {response.reason}"
        if status in _RETRIED_STATUS:
            wait = response.headers.get("Retry-After", "")
            raise RetryError(reason, wait_s=float(wait) if wait.isdecimal() else 0.0)
        raise MirrorError(reason)

    def _refuse_total(self, total: int | None) -> None:
        if total is not None and self._expected.size not in (None, total):
            raise MirrorError(f"its file has {total:,} bytes instead of {self._expected.size:,}")

    def _copy_file(self, path: Path) -> None:
        if not path.is_file():
            raise MirrorError("there is no such file")
        total = path.stat().st_size
        self._refuse_total(total)
        what = f"copying {path.name}"
        require_space(self._target.parent, total, what, DownloadError)
        progress = Progress(what, total, self._log, every_s=self._log_every_s)
        self._discard()
        with path.open("rb") as source, self._partial.open("wb") as file:
            while data := source.read(_CHUNK_BYTES):
                file.write(data)
                progress.add(len(data))

    def _publish(self, url: str, resumed: bool) -> DownloadResult:
        hashes = Hashes()
        hashes.update_from(self._partial)
        size = self.partial_size()
        if fault := self._expected.fault(size, hashes):
            self._discard()
            if resumed:  # the two halves may be of different versions: once more from the start
                raise RetryError(f"{fault}, so the whole file is fetched again")
            raise MirrorError(fault)
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        self._partial.replace(self._target)
        self._origin_file.unlink(missing_ok=True)
        return DownloadResult(self._target, size, hashes.sha256, hashes.md5, url, already_there=False)

    def _discard(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._origin_file.unlink(missing_ok=True)

    def _read_origin(self) -> _Origin | None:
        try:
            return _Origin(**json.loads(self._origin_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _write_origin(self, origin: _Origin) -> None:
        temporary = self._origin_file.with_suffix(".json.new")
        temporary.write_text(json.dumps(asdict(origin)), encoding="utf-8")
        temporary.replace(self._origin_file)


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """`bytes 100-199/200` -> (100, 200); `bytes */200` -> (-1, 200)."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes":
        return -1, None
    return int(start) if start.isdecimal() else -1, int(total) if total.isdecimal() else None
