"""Which files and hosts a configuration may name.

On a machine of one's own: all of them. Where others may launch runs, a configuration is a request of theirs, and two
settings of the code location draw the border: HAR_ALLOWED_FOLDERS and HAR_DOWNLOAD_HOSTS.

Dagster lets a run's configuration replace fields of resources as well (`resources: store: config: project: /etc`), so
with the first of them the project is the folder that the code location was started in, MLflow is the one of
HAR_MLFLOW_URI or of the project folder, and an address that the store or MLflow's files have is the environment's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from har_assets import settings
from har_assets.errors import HarError


def confined(path: Path, project: Path, what: str) -> Path:
    """The path itself, where a configuration may name it; `what` is the option, for the sentence.

    HarError where HAR_ALLOWED_FOLDERS is set and the path, its links followed, lies below none of them.
    """
    allowed = settings.read().allowed_folders
    if allowed is None:
        return path
    folders = [project, *allowed]
    try:
        target = path.resolve()
        inside = any(target.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL byte
        inside = False
    if not inside:
        raise HarError(
            f"{what} names {str(path)!r}, which lies outside the folders that this deployment may read: choose a "
            f"file below {' or '.join(str(folder) for folder in folders)}, or ask an administrator to change "
            f"{settings.ALLOWED_FOLDERS}."
        )
    return path


def refuse_other_address(address: str, what: str, variable: settings.Setting, own: str = "") -> None:
    """HarError where HAR_ALLOWED_FOLDERS is set and an address is neither `own` nor that of the environment `variable`.

    `what` is the option, for the sentence.
    """
    if settings.read().allowed_folders is not None and address not in ("", own, variable.get()):
        raise HarError(
            f"{what} must not be set to {address!r} in this deployment: remove it, or ask an administrator to change "
            f"{variable}."
        )


def refuse_environment(assigned: Collection[str], shown: Collection[str]) -> None:
    """HarError where a configuration may not set the environment variables `assigned` or publish those `shown`.

    Never the settings of this project, or what decides which programs and libraries run; nothing at all where
    HAR_ALLOWED_FOLDERS is set.
    """
    ours = [name for name in assigned if name == "PATH" or name.startswith((settings.PREFIX, "LD_", "PYTHON"))]
    if ours:
        raise HarError(
            f"env of mlflow must not set {', '.join(ours)}: set it where Dagster is started, and leave it out here."
        )
    named = [name for name, values in (("env", assigned), ("env_to_tag", shown)) if values]
    if named and settings.read().allowed_folders is not None:
        raise HarError(
            f"{' and '.join(named)} of mlflow must not be set in this deployment: leave it out, or ask an "
            f"administrator to change {settings.ALLOWED_FOLDERS}."
        )


def allowed_hosts() -> frozenset[str] | None:
    """The hosts of HAR_DOWNLOAD_HOSTS, in lower case; None where any host may be named."""
    names = settings.read().download_hosts
    return None if names is None else frozenset(hosts_of(names))


def hosts_of(addresses: Iterable[str]) -> set[str]:
    """Hosts of addresses (`https://host:port/...`) and of bare names (`host`, `host:port`), in lower case.

    What is no address has none.
    """
    found = set()
    for address in addresses:
        try:
            name = urlsplit(address).netloc.rpartition("@")[2] if "://" in address else address
        except ValueError:
            continue
        if name.strip():
            found.add(name.strip().lower())
    return found


def is_among(address: str, hosts: Iterable[str]) -> bool:
    """Whether the host of an address is one of `hosts`; where one has a port, the port has to be that one.

    ValueError for what is no address.
    """
    parts = urlsplit(address)
    host, port = (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)
    return bool(host) and any(allowed in (host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}") for allowed in hosts)
