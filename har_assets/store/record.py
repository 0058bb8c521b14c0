"""A published version: its record, its files, the lineage that it shares with its inputs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from har_assets.errors import HarError, MissingArtifactError
from har_assets.system.files import sha256_of
from har_assets.system.locks import FolderLock

RECORD_FILE = "artifact.json"
"""File of a version that holds its record, written last: without it a folder is no version."""

LATEST = "latest"
"""Beside the versions of an asset: link to the current one, in a bucket an object that names it."""


@dataclass(frozen=True)
class Record:
    """The content of `artifact.json`."""

    asset: str
    """Asset that published it."""
    key: str
    """Hash of inputs, configuration and code version, 64 hexadecimal digits."""
    data_version: str
    """Identity of the content for the assets downstream: the key, or a content hash where bytes are reproducible."""
    files: dict[str, dict[str, Any]]
    """File name to its `bytes` and `sha256`."""
    headline: str
    """One line for people."""
    lineage: dict[str, Any]
    """dataset, synthetic, data_version, split: equal in every product of one training."""
    metadata: dict[str, Any]
    """Figures of the product, JSON-ready."""
    checks: dict[str, dict[str, Any]]
    """Name of a check to `passed` and its figures."""
    inputs: dict[str, str]
    """Upstream asset to its data version."""
    config: dict[str, Any]
    """Configuration that it was made with."""
    seconds: float
    """Duration of the build."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """UTC time of publication."""

    def text(self) -> str:
        """The content of `artifact.json`."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, text: str | bytes) -> Self | None:
        """The record that a file holds, or None where it holds none."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


class Artifact(ABC):
    """A published version, wherever it lies: `FolderArtifact`, or `BucketArtifact` of har_assets.store.bucket."""

    record: Record

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder of this machine with all of its files. Raises StorageError where they cannot be copied here."""

    @abstractmethod
    def folder_with(self, names: Iterable[str]) -> Path:
        """Folder of this machine with these of its files at least. Raises StorageError as `folder`."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it lies, for people: a folder, or an address in a bucket."""

    def file(self, name: str) -> Path:
        """Path of one of its files; MissingArtifactError when it was removed by hand."""
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise HarError(f"{name!r} leads out of {self.folder}: name a file of {self.record.asset}.")
        if not path.is_file():
            raise MissingArtifactError(
                f"{path} is gone although {self.record.asset} was published: materialize {self.record.asset} "
                "again with force: true."
            )
        return path

    @property
    def bytes(self) -> int:
        """Size of its files together."""
        return sum(int(entry["bytes"]) for entry in self.record.files.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artifact) and (self.address, self.record) == (other.address, other.record)

    def __hash__(self) -> int:
        return hash(self.address)


class FolderArtifact(Artifact):
    """A version that lies in a folder of this machine."""

    def __init__(self, folder: Path, record: Record, lock: FolderLock | None = None) -> None:
        self._folder = folder
        self.record = record
        self.lock = lock
        """While it is held the version is not pruned; freed with this object. None where nothing is to be held."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder

    def folder_with(self, names: Iterable[str]) -> Path:
        """The folder, which has all of its files."""
        return self._folder

    @property
    def address(self) -> str:
        """The folder, for people."""
        return str(self._folder)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The version in a folder, or None where there is no complete one. It is not held: it may be pruned."""
        try:
            record = Record.parse((folder / RECORD_FILE).read_text())
        except (OSError, UnicodeDecodeError):
            return None
        return cls(folder, record) if record else None

    @classmethod
    def hold(cls, folder: Path) -> Self | None:
        """The version in a folder, kept from being pruned while the result exists; None where there is none."""
        lock = FolderLock.shared(folder)
        found = cls.read(folder)
        return cls(folder, found.record, lock) if found else None


UNHASHED_SUFFIXES = frozenset({".npy"})
"""Frame packs: tens of gigabytes, named in an index by the hash of each video they came from."""


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> bytes and SHA-256 (None for frame packs) of every file in a folder, the record excepted."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != RECORD_FILE:
            digest = None if path.suffix in UNHASHED_SUFFIXES else sha256_of(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return files


def refuse_other_parents(pairs: Iterable[tuple[Artifact, Artifact]], last: str) -> None:
    """HarError unless each first version was made from the second one; `last` names the asset made from all of them."""
    for child, parent in pairs:
        if child.record.inputs.get(parent.record.asset) != parent.record.data_version:
            raise HarError(
                f"The latest {child.record.asset} was made from another {parent.record.asset} than the latest: "
                f"`dagster asset materialize -m har_assets --select 'key:{child.record.asset} or key:{last}'`."
            )


def merge_lineage(inputs: dict[str, Artifact]) -> dict[str, Any]:
    """The lineage that all inputs agree on; HarError names the two that do not."""
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for asset, artifact in inputs.items():
        for name, value in artifact.record.lineage.items():
            if merged.setdefault(name, value) != value:
                raise HarError(
                    f"{asset} was made with {name} {value!r}, {origin[name]} with {merged[name]!r}: materialize "
                    f"them together, `dagster asset materialize -m har_assets --select '+key:{asset}'`."
                )
            origin.setdefault(name, asset)
    return merged
