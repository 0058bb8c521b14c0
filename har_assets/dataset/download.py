"""Fetch one large file so that it is either wholly there, with the bytes that were expected, or not at all.

What has arrived stays in `.NAME.partial` with a note of its origin beside it, and the next call goes on from
there (HTTP Range with If-Range), also after kill -9 or on another mirror where a hash is known. The file
takes its name by one rename after size and hash were verified.

Only hosts that were named are asked: those of the addresses, and those that may be redirected to. A redirect to any
other, be it a machine of the inner network or the metadata service of a cloud, is refused before it is followed.
"""

import hashlib
import json
import os
import random
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import requests
import urllib3

from har_assets import settings
from har_assets.errors import DownloadError
from har_assets.system.confinement import allowed_hosts, hosts_of, is_among
from har_assets.system.files import (
    DISK_FULL_ERRNOS,
    Log,
    Progress,
    format_bytes,
    format_seconds,
    require_space,
    silent,
    write_text_whole,
)
from har_assets.system.locks import locked

HMDB51_ARCHIVE_URLS: tuple[str, ...] = (
    "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar",
    "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar",
)
"""The archive of all clips, 2.1 GB. The https host has at times had an invalid certificate; the hash makes
the plain one safe to use."""

HMDB51_ARCHIVE_MD5 = "517d6f1f19f215c45cdd4d25356be1fb"
"""MD5 of hmdb51_org.rar. The authors publish none; this is what two projects independently expect, among them
DeepMind's brave (`brave/download_hmdb.py`)."""

HMDB51_SPLITS_URLS: tuple[str, ...] = (
    "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/test_train_splits.rar",
    "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/test_train_splits.rar",
)
"""The 153 official split lists, 0.2 MB."""

HMDB51_SPLITS_MD5 = "15e67781e70dcfbdce2d7dbb9b3344b5"
"""MD5 of test_train_splits.rar, as torchvision expects it."""

_CHUNK_BYTES = 1 << 18
_PROGRESS_BYTES = 1 << 20  # an attempt that brought so much does not count as failed
_LONGEST_WAIT_S = 60.0
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


class _RetryError(Exception):
    """This attempt failed in a way that another may not."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _MirrorError(Exception):
    """This address will not give the file however often it is asked."""


def download(
    source: str | Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    timeout_s: float = 60.0,
    attempts: int = 6,
    backoff_s: float = 1.0,
    log: Log = silent,
    log_every_s: float = 5.0,
    session: requests.Session | None = None,
    redirect_hosts: Sequence[str] = (),
) -> DownloadResult:
    """Fetch `source` to the file `target`.

    Several processes may ask for one target at once: one fetches, the others wait and find it done. A target
    that exists is verified against what is given and kept; if it does not match it is fetched again.

    Args:
        source: address (http, https, file, or a path), or several mirrors in the order of preference.
        target: file to write.
        sha256: expected SHA-256, hexadecimal.
        md5: expected MD5, where the publisher gives no better one.
        size: expected bytes.
        timeout_s: longest silence of the server, and longest wait for a connection.
        attempts: failed attempts in a row at one mirror; one that brought 1 MiB or more does not count.
        backoff_s: wait after the first failed attempt, doubled at each further one up to a minute.
        log: takes progress lines.
        log_every_s: seconds between progress lines.
        session: for proxies, headers, credentials. Certificates are verified unless it says otherwise.
        redirect_hosts: hosts, besides those of `source`, to which a server may redirect. Where the environment variable
            HAR_DOWNLOAD_HOSTS is set, its hosts are the only ones that are asked for anything.

    Raises:
        DownloadError: no mirror gave the file, its bytes are not the expected ones, or the disk is too full.
            What has arrived in good order is kept for the next call.
    """
    mirrors = [source] if isinstance(source, str) else list(source)
    if not mirrors:
        raise DownloadError("no address to download from was given: name one or more.")
    target = Path(target)
    expected = _Expected(size, sha256.lower() if sha256 else None, md5.lower() if md5 else None)
    with locked(target, log):
        if (existing := _existing(target, expected, log)) is not None:
            return existing
        failures = []
        with nullcontext(session) if session else requests.Session() as active_session:
            fetch = _Fetch(
                target=target,
                expected=expected,
                timeout_s=timeout_s,
                log=log,
                log_every_s=log_every_s,
                session=active_session,
                hosts=hosts_of(mirror for mirror in mirrors if "://" in mirror) | hosts_of(redirect_hosts),
            )
            for mirror in mirrors:
                try:
                    return _from_mirror(fetch, mirror, attempts, backoff_s, log)
                except _MirrorError as failure:
                    log(f"{mirror}: {failure}")
                    failures.append(f"{mirror}: {failure}")
        raise DownloadError(
            f"{target.name} could not be downloaded ({'; '.join(failures)}): check the network and run it "
            "again (it goes on where it stopped), or fetch the file yourself and name its path as the source."
        )


def _from_mirror(fetch: "_Fetch", mirror: str, attempts: int, backoff_s: float, log: Log) -> DownloadResult:
    failed = 0
    furthest = fetch.partial_size()
    while True:
        try:
            with _network_errors():
                return fetch.attempt(mirror)
        except _RetryError as failure:
            arrived = fetch.partial_size()
            failed = 1 if arrived >= furthest + _PROGRESS_BYTES else failed + 1
            furthest = max(furthest, arrived)
            if failed >= attempts:
                raise _MirrorError(f"{failure} (attempt {failed} of {attempts})") from failure
            wait_s = min(backoff_s * 2 ** (failed - 1), _LONGEST_WAIT_S) * random.uniform(0.5, 1.5)
            wait_s = max(wait_s, min(failure.wait_s, _LONGEST_WAIT_S))
            log(
                f"{mirror}: {failure}; attempt {failed + 1} of {attempts} in {wait_s:.1f} s, from "
                f"{format_bytes(arrived)}"
            )
            time.sleep(wait_s)


@contextmanager
def _network_errors() -> Iterator[None]:
    """Sort errors into those worth another attempt, those of the mirror, and those of this machine."""
    try:
        yield
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        if isinstance(_root_cause(error), ssl.SSLCertVerificationError):
            raise _MirrorError(
                "its TLS certificate is not valid for this machine (check the clock and the proxy)"
            ) from error
        raise _RetryError("the TLS connection broke") from error
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        requests.exceptions.TooManyRedirects,
        urllib3.exceptions.LocationValueError,
    ) as error:
        raise _MirrorError(f"not an address that can be fetched ({error})") from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _RetryError("no answer in time") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _RetryError(f"the connection broke ({type(_root_cause(error)).__name__})") from error
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise DownloadError(
                "the disk became full during the download: free some space and run it again, it goes on "
                "where it stopped."
            ) from error
        raise DownloadError(f"the download could not be written: {error}.") from error


def _root_cause(error: BaseException) -> BaseException:
    """Return the innermost error, which requests and urllib3 wrap several times."""
    seen = {id(error)}
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            inner = next((each for each in error.args if isinstance(each, BaseException)), None)
        if inner is None or id(inner) in seen:
            return error
        seen.add(id(inner))
        error = inner


# --- what is expected --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Expected:
    size: int | None
    sha256: str | None
    md5: str | None

    @property
    def has_hash(self) -> bool:
        return self.sha256 is not None or self.md5 is not None

    def fault(self, size: int, hashes: "_Hashes") -> str | None:
        """Say what is wrong with a complete file, or None."""
        if self.size is not None and size != self.size:
            return f"it has {size:,} bytes instead of {self.size:,}"
        if self.sha256 is not None and hashes.sha256 != self.sha256:
            return f"its SHA-256 is {hashes.sha256} instead of {self.sha256}"
        if self.md5 is not None and hashes.md5 != self.md5:
            return f"its MD5 is {hashes.md5} instead of {self.md5}"
        return None


class _Hashes:
    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        self._md5.update(data)

    def update_from(self, path: Path) -> None:
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                self.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()


def _existing(target: Path, expected: _Expected, log: Log) -> DownloadResult | None:
    if not target.exists():
        return None
    if not target.is_file():
        raise DownloadError(f"{target} is a folder: name a file to download to.")
    hashes = _Hashes()
    hashes.update_from(target)
    size = target.stat().st_size
    if fault := expected.fault(size, hashes):
        log(f"{target} is there but {fault}: it is fetched again")
        return None
    log(f"{target} is there already, {format_bytes(size)}")
    return DownloadResult(target, size, hashes.sha256, hashes.md5, url="", already_there=True)


# --- one attempt -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Origin:
    """Which version of which address the partial file is the beginning of."""

    url: str
    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong ETag or a date."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def is_of(self, size: int | None, etag: str | None) -> bool:
        """Tell whether an answer may go on where this one stopped, should a server ignore If-Range."""
        return self.size in (None, size) and (self.etag is None or etag is None or self.etag == etag)


class _Fetch:
    def __init__(
        self,
        *,
        target: Path,
        expected: _Expected,
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
            _RetryError, _MirrorError: see there. Errors of requests and urllib3 pass through.
        """
        started = time.monotonic()
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise _MirrorError(f"not an address that can be fetched ({error})") from error
        if parts.scheme in ("http", "https"):
            resumed = self._fetch_http(url)
        elif parts.scheme == "file" or "://" not in url:
            resumed = False
            self._copy_file(Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(url))
        else:
            raise _MirrorError(f"{parts.scheme}:// is not supported, only http, https and file")
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
                raise _RetryError("what had arrived does not belong to the file of this server")
            self._refuse_status(response)
            if response.status_code == 206:
                start, total = _content_range(response)
                if start != offset:
                    self._discard()
                    raise _RetryError(f"the server sent bytes from {start} on instead of {offset}")
                if origin is not None and not origin.is_of(total, response.headers.get("ETag")):
                    self._discard()
                    raise _RetryError("the file is another than before")
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
                    raise _MirrorError(f"it sends more than the expected {self._expected.size:,} bytes")
                file.write(data)
                progress.add(len(data))
        if total is not None and arrived < total:
            raise _RetryError(f"the connection ended at {arrived:,} of {total:,} bytes")

    def _refuse_host(self, url: str) -> None:
        allowed = allowed_hosts()
        if allowed is not None and not is_among(url, allowed):
            raise _MirrorError(
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
            raise _MirrorError("it redirects to what is no address") from None
        if parts.scheme not in ("http", "https"):
            raise _MirrorError(f"it redirects to a {parts.scheme or 'nameless'} address, which is never followed")
        if not known:
            raise _MirrorError(
                f"it redirects to another host, {parts.netloc.rpartition('@')[2]}: add that to download_hosts if you "
                "trust it"
            )
        if parts.scheme == "http" and response.url.startswith("https:") and not self._expected.has_hash:
            raise _MirrorError("it redirects from https to http, and no hash is known that would show a forged file")

    def _refuse_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status in (200, 206):
            content_type = response.headers.get("Content-Type", "")
            if content_type.startswith("text/html") and self._target.suffix not in (".html", ".htm"):
                raise _MirrorError("it answers with a web page instead of the file")
            return
        reason = f"it answers {status} {response.reason}"
        if status in _RETRIED_STATUS:
            wait = response.headers.get("Retry-After", "")
            raise _RetryError(reason, wait_s=float(wait) if wait.isdecimal() else 0.0)
        raise _MirrorError(reason)

    def _refuse_total(self, total: int | None) -> None:
        if total is not None and self._expected.size not in (None, total):
            raise _MirrorError(f"its file has {total:,} bytes instead of {self._expected.size:,}")

    def _copy_file(self, path: Path) -> None:
        if not path.is_file():
            raise _MirrorError("there is no such file")
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
        hashes = _Hashes()
        hashes.update_from(self._partial)
        size = self.partial_size()
        if fault := self._expected.fault(size, hashes):
            self._discard()
            if resumed:  # the two halves may be of different versions: once more from the start
                raise _RetryError(f"{fault}, so the whole file is fetched again")
            raise _MirrorError(fault)
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
        write_text_whole(self._origin_file, json.dumps(asdict(origin)))


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """`bytes 100-199/200` -> (100, 200); `bytes */200` -> (-1, 200)."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes":
        return -1, None
    return int(start) if start.isdecimal() else -1, int(total) if total.isdecimal() else None
