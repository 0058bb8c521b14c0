"""Fetch one large file so that it is either wholly there, with the bytes that were expected, or not at all.

What has arrived stays in `.NAME.partial` with a note of its origin beside it, and the next call goes on from
there (HTTP Range with If-Range), also after kill -9 or on another mirror where a hash is known. The file
takes its name by one rename after size and hash were verified.

Only hosts that were named are asked: those of the addresses, and those that may be redirected to. A redirect to any
other, be it a machine of the inner network or the metadata service of a cloud, is refused before it is followed.
"""

import random
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import requests
import urllib3

from har_assets.dataset.fetch import DownloadResult, Expected, Fetch, Hashes, MirrorError, RetryError
from har_assets.errors import DownloadError
from har_assets.system.confinement import hosts_of
from har_assets.system.files import DISK_FULL_ERRNOS, Log, format_bytes, silent
from har_assets.system.locks import locked

_PROGRESS_BYTES = 1 << 20  # an attempt that brought so much does not count as failed
_LONGEST_WAIT_S = 60.0


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
    expected = Expected(size, sha256.lower() if sha256 else None, md5.lower() if md5 else None)
    with locked(target, log):
        if (existing := _existing(target, expected, log)) is not None:
            return existing
        failures = []
        with nullcontext(session) if session else requests.Session() as active_session:
            fetch = Fetch(
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
                except MirrorError as failure:
                    log(f"{mirror}: {failure}")
                    failures.append(f"{mirror}: {failure}")
        raise DownloadError(
            f"{target.name} could not be downloaded ({'; '.join(failures)}): check the network and run it "
            "again (it goes on where it stopped), or fetch the file yourself and name its path as the source."
        )


def _from_mirror(fetch: Fetch, mirror: str, attempts: int, backoff_s: float, log: Log) -> DownloadResult:
    failed = 0
    furthest = fetch.partial_size()
    while True:
        try:
            with _network_errors():
                return fetch.attempt(mirror)
        except RetryError as failure:
            arrived = fetch.partial_size()
            failed = 1 if arrived >= furthest + _PROGRESS_BYTES else failed + 1
            furthest = max(furthest, arrived)
            if failed >= attempts:
                raise MirrorError(f"{failure} (attempt {failed} of {attempts})") from failure
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
            raise MirrorError(
                "its TLS certificate is not valid for this machine (check the clock and the proxy)"
            ) from error
        raise RetryError("the TLS connection broke") from error
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        requests.exceptions.TooManyRedirects,
        urllib3.exceptions.LocationValueError,
    ) as error:
        raise MirrorError(f"not an address that can be fetched ({error})") from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise RetryError("no answer in time") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise RetryError(f"the connection broke ({type(_root_cause(error)).__name__})") from error
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


def _existing(target: Path, expected: Expected, log: Log) -> DownloadResult | None:
    if not target.exists():
        return None
    if not target.is_file():
        raise DownloadError(f"{target} is a folder: name a file to download to.")
    hashes = Hashes()
    hashes.update_from(target)
    size = target.stat().st_size
    if fault := expected.fault(size, hashes):
        log(f"{target} is there but {fault}: it is fetched again")
        return None
    log(f"{target} is there already, {format_bytes(size)}")
    return DownloadResult(target, size, hashes.sha256, hashes.md5, url="", already_there=True)
