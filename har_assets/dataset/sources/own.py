"""A source of one's own: an archive or folder that stays where it is, known by its path and hash."""

from pathlib import Path
from typing import Any

from har_assets.dataset.sources.restored import DVC
from har_assets.dataset.sources.source import Request, Source, archive_product
from har_assets.dataset.tracked import SAMPLE, UNNAMED
from har_assets.errors import HarError
from har_assets.store.product import Build, Product
from har_assets.system.confinement import confined
from har_assets.system.files import hash_of, sha256_of
from har_assets.video.walk import walk_files


def identity(request: Request) -> dict[str, Any]:
    """Path, hash and size of the archive, path and hash of the split lists; HarError where these are missing."""
    source, lists = Path(request.source), _split_lists(request)
    _refuse_label(request)
    return {
        "archive": str(source),
        "archive_hash": _hash_of(source),
        "split_lists": str(lists or ""),
        "split_lists_hash": _hash_of(lists) if lists else "",
        "bytes": _size_of(source),
    }


def build(build: Build, request: Request) -> Product:
    """Point to it."""
    source = Path(request.source)
    return archive_product(
        request,
        dataset=dataset_name(source),
        archive=str(source),
        split_lists=str(_split_lists(request) or ""),
        size=_size_of(source),
    )


def dataset_name(source: Path) -> str:
    """Name of a data set of one's own; the names that stand for something else are kept for that."""
    name = source.name.split(".")[0]
    return f"own_{name}" if name in (SAMPLE, DVC, UNNAMED) else name


def _split_lists(request: Request) -> Path | None:
    if not request.split_lists:
        return None
    path = request.project / Path(request.split_lists).expanduser()
    confined(path, request.project, "split_lists of raw_archive")
    if not path.exists():
        raise HarError(f"There are no split lists {path}: correct split_lists, or leave it empty.")
    return path


def _refuse_label(request: Request) -> None:
    from har_assets.dataset.lists import LABELS

    if request.label.lower() not in LABELS:
        raise HarError(
            f"label of raw_archive is {request.label!r}: choose {', '.join(LABELS)}; split_lists names the list itself."
        )
    if request.label.lower() == "csv" and not request.split_lists:
        raise HarError(
            "label: csv takes the classes from a list, and none is named: name a CSV with the columns video and label, "
            "or the folder or archive that holds it, as split_lists of raw_archive."
        )


def _hash_of(path: Path) -> str:
    """SHA-256 of an archive; of names, sizes and times for a folder, which is not read whole each time."""
    if path.is_file():
        return sha256_of(path)
    return hash_of(
        [
            [file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns]
            for file in walk_files(path).files
            if file.is_file()
        ]
    )


def _size_of(path: Path) -> int:
    files = [path] if path.is_file() else walk_files(path).files
    return sum(file.stat().st_size for file in files if file.is_file())


SOURCE = Source(identity, build)
