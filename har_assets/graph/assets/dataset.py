"""From a source to frames: raw_archive, video_clips, manifests, class_index, frame_cache."""

import csv
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import dagster as dg

from har_assets import settings
from har_assets.cluster.address import cluster_address
from har_assets.cluster.needs import needs
from har_assets.dataset.folder import DATASET_FILE, SPLITS, VIDEOS, Dataset, class_list, is_complete
from har_assets.errors import DatasetError, HarError
from har_assets.graph.assets.data_dvc import DATA_DVC, observed_by
from har_assets.graph.failures import failures_in_words
from har_assets.graph.publishing import AssetConfig, check_results, publish
from har_assets.graph.resources.dvc import Dvc, FileHash, differences, files_of, version_of
from har_assets.graph.resources.store import ArtifactStore
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.confinement import confined
from har_assets.system.files import hash_of, sha256_of
from har_assets.system.locks import locked

if TYPE_CHECKING:
    import pandas as pd

    from har_assets.dataset.splits import Manifests

logger = logging.getLogger(__name__)

ROLES = ("train", "val", "test")
SAMPLE = "sample"
HMDB51 = "hmdb51"
DVC = "dvc"


class RawArchiveConfig(AssetConfig):
    """Where the videos come from."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {"workers", "source", "download_hosts"}

    source: str = ""
    """`sample` (built in, synthetic), `hmdb51` (downloaded), `dvc` (no archive: video_clips is restored as
    data.dvc says), or the path of an archive or folder of one's own: a RAR, ZIP or TAR of class folders or of
    one archive a class. Empty goes on with the source that the project has, or takes the environment variable
    HAR_SOURCE, or `dvc` where data.dvc tracks a real data set, or the sample."""
    split_lists: str = ""
    """Path of an archive or folder of split lists in HMDB51's format, for a source of one's own; empty: a
    seeded split is made."""
    archive_urls: list[str] = []
    """Mirrors of hmdb51_org.rar; empty takes the home page of the data set."""
    split_lists_urls: list[str] = []
    """Mirrors of test_train_splits.rar; empty takes the home page of the data set."""
    download_hosts: list[str] = []
    """Hosts, besides those of the mirrors, to which a download may be redirected."""
    sha256: str = ""
    """SHA-256 that the archive must have. Empty: the one that this project has recorded, at first the MD5 that is
    known of hmdb51_org.rar; with mirrors of one's own the first download is trusted and recorded."""
    workers: int = 0
    """Processes that render the sample; 0 takes one a core."""


@dg.asset(
    group_name="dataset",
    kinds={"python"},
    code_version="1",
    op_tags=needs(project=True),
    tags={"har/stage": "data"},
)
def raw_archive(
    context: dg.AssetExecutionContext, config: RawArchiveConfig, store: ArtifactStore, dvc: Dvc
) -> dg.MaterializeResult:
    """The archive of videos and the archive of split lists, as they came, with their hashes.

    The built-in sample is rendered here (it is synthetic); HMDB51 is downloaded; an archive of one's own
    stays where it is and is recorded by path and hash. Where DVC restores the data there is no archive.
    """
    with failures_in_words():
        source = choose_source(config.source, store, dvc, pulled=_dvc_mode_of_run(context) == "pull")
        identity = _source_identity(source, config, store, dvc)

    def product_of(build: Build) -> Product:
        downloads: list[dict[str, Any]] = []
        if source == SAMPLE:
            from har_assets.dataset.sample import write_sample

            files = write_sample(build.folder, workers=config.workers or None, log=context.log.info)
            archive, lists = files.archive.name, files.split_lists.name
        elif source == HMDB51:
            archive, lists, downloads = _download_hmdb51(build.folder, config, context, store)
        elif source == DVC:
            return _restored_by_dvc(identity["dvc"], dvc.tracked_dataset(store.project_folder) or UNNAMED)
        else:
            archive, lists = identity["archive"], identity["split_lists"]
        size = identity.get("bytes") or (build.folder / archive).stat().st_size
        name = source if source in (SAMPLE, HMDB51) else _name_of_own(Path(source))
        return Product(
            headline=f"{name}: {size / 1e6:.1f} MB" + (" (synthetic)" if source == SAMPLE else ""),
            metadata={
                "source": source,
                "archive": archive,
                "split_lists": lists,
                "dataset": name,
                "downloads": downloads,
            },
            lineage={"dataset": name, "synthetic": source == SAMPLE},
        )

    return publish(context, store, config, product_of, identity=identity)


UNNAMED = "unnamed"
"""Name of the data set of a data.dvc that was not written by har_assets."""


def _restored_by_dvc(version: str, name: str) -> Product:
    return Product(
        headline=f"{name}: no archive, DVC restores version {version[:8]}",
        metadata={"source": DVC, "archive": "", "split_lists": "", "dataset": name},
        lineage={"dataset": name, "synthetic": name == SAMPLE},
    )


def _name_of_own(source: Path) -> str:
    """Name of a data set of one's own; `sample` is kept for the synthetic one, which anything may replace."""
    name = source.name.split(".")[0]
    return f"own_{name}" if name in (SAMPLE, DVC, UNNAMED) else name


def _dvc_mode_of_run(context: dg.AssetExecutionContext) -> str:
    """What `dvc` says in the configuration of video_clips in this run; empty where it is left to its default."""
    run_config: dict[str, Any] = dict(context.run.run_config)
    return str(run_config.get("ops", {}).get("video_clips", {}).get("config", {}).get("dvc", ""))


def choose_source(wanted: str, store: ArtifactStore, dvc: Dvc, *, pulled: bool = False) -> str:
    """`sample`, `hmdb51`, `dvc` or an absolute path; HarError for anything else.

    `pulled`: the run takes the videos from DVC, so that no archive is needed unless one is named.
    """
    published = store.folder.find_latest("raw_archive")
    source = (
        wanted
        or (DVC if pulled else "")
        or (published.record.metadata["source"] if published else "")
        or settings.SOURCE.get("")
        or (DVC if _tracked_real(store, dvc) else SAMPLE)
    )
    if source in (SAMPLE, HMDB51, DVC):
        return str(source)
    path = Path(source.removeprefix("file://")).expanduser()
    path = path if path.is_absolute() else store.project_folder / path
    confined(path, store.project_folder, "source of raw_archive")
    if not path.exists():
        raise HarError(
            f"There is no source {source!r}: choose {SAMPLE}, {HMDB51}, {DVC}, or the path of an existing archive or "
            "folder."
        )
    return str(path)


def _tracked_real(store: ArtifactStore, dvc: Dvc) -> str | None:
    """Name of the data set that data.dvc tracks, or None where it tracks nothing or the sample."""
    tracked = dvc.tracked_version(store.project_folder)
    if tracked is None:
        return None
    name = dvc.tracked_dataset(store.project_folder)
    if name is None and tracked == _published_version(store):
        # What was published here is tracked, and the process was killed before it had written the name.
        name = store.latest("video_clips").record.lineage["dataset"]
    return None if name == SAMPLE else name or UNNAMED


def _source_identity(source: str, config: RawArchiveConfig, store: ArtifactStore, dvc: Dvc) -> dict[str, Any]:
    """What decides the content of a source, cheap to ask: version, addresses, or the files' hashes."""
    if source == SAMPLE:
        from har_assets.dataset.sample import SAMPLE_VERSION

        return {"sample": SAMPLE_VERSION}
    if source == HMDB51:
        return {"hmdb51": "2013-10"}
    if source == DVC:
        return {"dvc": _tracked_version(store, dvc)}
    lists = ""
    if config.split_lists:
        path = Path(config.split_lists).expanduser()
        path = path if path.is_absolute() else store.project_folder / path
        confined(path, store.project_folder, "split_lists of raw_archive")
        if not path.exists():
            raise HarError(f"There are no split lists {path}: correct split_lists, or leave it empty.")
        lists = str(path)
    return {
        "archive": source,
        "archive_hash": _hash_of_source(Path(source)),
        "split_lists": lists,
        "split_lists_hash": _hash_of_source(Path(lists)) if lists else "",
        "bytes": _size_of(Path(source)),
    }


def _hash_of_source(path: Path) -> str:
    """SHA-256 of an archive; of names, sizes and times for a folder, which is not read whole each time."""
    if path.is_file():
        return sha256_of(path)
    return hash_of(
        [
            [file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns]
            for file in sorted(path.rglob("*"))
            if file.is_file()
        ]
    )


def _size_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _download_hmdb51(
    folder: Path, config: RawArchiveConfig, context: dg.AssetExecutionContext, store: ArtifactStore
) -> tuple[str, str, list[dict[str, Any]]]:
    """Fetch both archives of HMDB51 into the store's work folder, then link them into `folder`.

    Returns their names, and of each its name, address, bytes and hashes.
    """
    from har_assets.dataset import download as dl

    for url in (*config.archive_urls, *config.split_lists_urls):
        if not url.startswith(("http://", "https://")):
            confined(Path(url2pathname(urlsplit(url).path)), store.project_folder, "a mirror of raw_archive")
    work = store.folder.root / "raw_archive" / ".downloads"
    work.mkdir(parents=True, exist_ok=True)
    trusted = config.sha256 or _recorded_sha256(store, "hmdb51_org.rar")
    archive = dl.download(
        config.archive_urls or dl.HMDB51_ARCHIVE_URLS,
        work / "hmdb51_org.rar",
        sha256=trusted or None,
        md5=None if trusted or config.archive_urls else dl.HMDB51_ARCHIVE_MD5,
        log=context.log.info,
        redirect_hosts=config.download_hosts,
    )
    lists = dl.download(
        config.split_lists_urls or dl.HMDB51_SPLITS_URLS,
        work / "test_train_splits.rar",
        md5=dl.HMDB51_SPLITS_MD5,
        log=context.log.info,
        redirect_hosts=config.download_hosts,
    )
    for result in (archive, lists):
        os.link(result.path, folder / result.path.name)
    if archive.md5 != dl.HMDB51_ARCHIVE_MD5:
        context.log.warning(f"{archive.path.name} is not the archive of 2013: its SHA-256 is {archive.sha256}")
    downloads = [
        {"file": result.path.name, "url": result.url, "bytes": result.size, "sha256": result.sha256, "md5": result.md5}
        for result in (archive, lists)
    ]
    return archive.path.name, lists.path.name, downloads


def _recorded_sha256(store: ArtifactStore, name: str) -> str:
    """SHA-256 of a file that any published raw_archive holds; empty where it was never downloaded."""
    for published in store.folder.versions("raw_archive"):
        if published.record.metadata.get("source") == HMDB51 and name in published.record.files:
            return str(published.record.files[name]["sha256"])
    return ""


DVC_MODES = ("off", "add", "push", "pull")

CLIP_HASHES = "clips.json"
"""md5 and path of every file of data/, in the format of DVC's own listings."""


class VideoClipsConfig(AssetConfig):
    """How `data/` is filled and versioned."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {"dvc", "workers"}

    dvc: str = "add"
    """`off`: data/ without DVC. `add`: track it in data.dvc. `push`: add, then copy to the remote. `pull`: take
    the data that data.dvc names from DVC's cache or remote; raw_archive is not needed."""
    workers: int = 0
    """Threads that unpack; 0 takes one a core, four at most."""


@dg.asset(
    deps=[raw_archive, DATA_DVC],
    group_name="dataset",
    kinds={"dvc"},
    code_version="2",
    op_tags=needs(project=True),
    tags={"har/stage": "data"},
)
def video_clips(
    context: dg.AssetExecutionContext, config: VideoClipsConfig, store: ArtifactStore, dvc: Dvc
) -> dg.MaterializeResult:
    """The videos in `data/`, one folder a class, read-only, versioned by the md5 that DVC gives `data/`.

    Replacing a real data set by another, or by the sample, needs `force: true`.
    """
    data, project = store.data_folder, store.project_folder
    rebuilt = False

    def product_of(build: Build) -> Product:
        nonlocal rebuilt
        with _new_data(data) as staging:
            if pull:
                notes: tuple[str, ...] = ()
                files = dvc.restore(project, staging, context.log.info)
                if not (staging / DATASET_FILE).is_file():
                    raise DatasetError(
                        f"What data.dvc names was not made by har_assets (it has no {DATASET_FILE}): `dvc pull` it, "
                        "move it out of data/ and name that folder as the source of raw_archive."
                    )
            else:
                notes = _unpack(build.inputs["raw_archive"], staging, config.workers, context.log.info)
                files = files_of(staging)
            dataset = Dataset.read(staging)
            version = version_of(files)
            tracked = dvc.tracked_version(project)
            # data.dvc may move on from what it says now: it is ours, or the user wants it.
            replaces = tracked if tracked and (config.force or tracked == _published_version(store)) else ""
            if config.dvc in ("add", "push"):
                _refuse_retracking(version, replaces, config, store, dvc)
        rebuilt = True
        clips = [path for path in (data / VIDEOS).rglob("*") if path.is_file()]
        per_class = Counter(path.parent.name for path in clips)
        (build.folder / DATASET_FILE).write_text((data / DATASET_FILE).read_text())
        (build.folder / CLIP_HASHES).write_text(json.dumps(files))
        return Product(
            headline=f"{len(clips):,} clips of {len(per_class)} classes"
            + (" (synthetic)" if dataset.synthetic else ""),
            metadata={
                "clips": len(clips),
                "video_bytes": sum(path.stat().st_size for path in clips),
                "clips_per_class": [{"class": name, "clips": count} for name, count in sorted(per_class.items())],
                "notes": list(notes),
                "data_folder": str(data),
                "source": DVC if pull else build.inputs["raw_archive"].record.metadata["source"],
                "replaces": replaces,
            },
            lineage={"dataset": dataset.name, "synthetic": dataset.synthetic, "data_version": version},
            data_version=version,
            clips=len(clips),
        )

    with failures_in_words():
        if config.dvc not in DVC_MODES:
            raise HarError(f"There is no dvc mode {config.dvc!r}: choose {', '.join(DVC_MODES)}.")
        with locked(data, context.log.info):
            recover_data(data, context.log.info)
            archive = None if config.dvc == "pull" else store.latest("raw_archive")
            if archive is not None and archive.record.metadata["source"] == DVC:
                archive = None
            pull = archive is None
            identity = {"data_dvc": _tracked_version(store, dvc)} if pull else None
            _refuse_replacement(archive, config, store, dvc)
            result = publish(
                context,
                store,
                config,
                product_of,
                upstream=() if pull else ("raw_archive",),
                identity=identity,
                reusable=lambda artifact: _still_there(artifact, data),
            )
            if config.dvc in ("add", "push"):
                _track(store.latest("video_clips"), config, store, dvc, context.log.info, rebuilt=rebuilt)
            if config.dvc == "push":
                dvc.push(project, context.log.info)
            observed_by(context, dvc.tracked_version(project))
    return result


@dg.asset_check(asset=video_clips, blocking=True)
def data_unspoiled(store: ArtifactStore) -> dg.AssetCheckResult:
    """Every file of data/ has the bytes that video_clips published; a write through a hard link shows here."""
    with failures_in_words():
        published = store.latest("video_clips")
        found = changed_files(published, data_here(store))
    count = sum(len(names) for names in found.values())
    return dg.AssetCheckResult(
        passed=count == 0,
        description=f"{count} files of data/ are not what video_clips published: materialize it with force: true."
        if count
        else None,
        metadata={name: dg.MetadataValue.json(names) for name, names in found.items()},
    )


def changed_files(published: Artifact, data: Path) -> dict[str, list[str]]:
    """Names of the files of `data/` that are `changed`, `missing` or `new` since video_clips published it."""
    expected: list[FileHash] = json.loads(published.file(CLIP_HASHES).read_text())
    return differences(data, expected)


def recover_data(data: Path, log: Callable[[str], None]) -> None:
    """Mend what a kill in the middle of replacing `data/` has left: the old folder is back, or the new one stays."""
    old, staging = _replaced(data), _staging(data)
    if old.exists() and not data.exists():
        log(f"a run was killed while it replaced {data}: the folder as it was before is put back")
        old.rename(data)
    for left in (old, staging):
        _remove(left)


@contextmanager
def _new_data(data: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `data/` when the block ends well; `recover_data` knows its steps."""
    staging, old = _staging(data), _replaced(data)
    staging.mkdir(parents=True)
    try:
        yield staging
        if data.exists():
            data.rename(old)
        staging.rename(data)
        _remove(old)
    finally:
        _remove(staging)


def _staging(data: Path) -> Path:
    return data.with_name(f".{data.name}.staging")


def _replaced(data: Path) -> Path:
    return data.with_name(f".{data.name}.replaced")


def _remove(folder: Path) -> None:
    """Remove a tree whose files may be read-only."""
    if folder.exists():
        shutil.rmtree(folder)


def _tracked_version(store: ArtifactStore, dvc: Dvc) -> str:
    version = dvc.tracked_version(store.project_folder)
    if version is None:
        raise HarError(
            f"There is no data.dvc in {store.project_folder} to restore data/ by: bring it from where the data was "
            "tracked, or name another source on raw_archive and set dvc: add on video_clips."
        )
    return version


def _published_version(store: ArtifactStore) -> str:
    published = store.folder.find_latest("video_clips")
    return published.record.data_version if published else ""


def _refuse_replacement(archive: Artifact | None, config: VideoClipsConfig, store: ArtifactStore, dvc: Dvc) -> None:
    """A real data set is replaced by another only with force. `archive` is None where DVC restores the data."""
    if config.force:
        return
    data = store.data_folder
    tracked = _tracked_real(store, dvc)
    coming = archive.record.lineage["dataset"] if archive else dvc.tracked_dataset(store.project_folder)
    if (data / DATASET_FILE).is_file():
        present = Dataset.read(data)
        if not present.synthetic and present.name != coming:
            raise DatasetError(
                f"data/ holds the data set {present.name!r}, {'the archive' if archive else 'what data.dvc names'} is "
                f"{coming or UNNAMED!r}: set force: true on video_clips to replace it, or materialize raw_archive from "
                "the source you mean."
            )
        published = store.folder.find_latest("video_clips")
        before = published.record.metadata.get("source", "") if published else ""
        source = archive.record.metadata["source"] if archive else DVC
        if not present.synthetic and DVC not in (before, source) and before not in ("", source):
            raise DatasetError(
                f"data/ holds {present.name!r} from {before}, the archive of that name is now {source}: set "
                "force: true on video_clips to replace the one by the other."
            )
    elif data.exists() and any(data.iterdir()):
        raise DatasetError(
            f"{data} exists and was not made by har_assets: move it away and name it as the source, or set force: true."
        )
    if archive is not None and tracked not in (None, coming):
        raise DatasetError(
            f"data.dvc tracks the data set {tracked!r}, the archive is {coming!r}: set dvc: pull on video_clips to "
            "restore the former, or force: true to replace it."
        )


def _refuse_retracking(version: str, replaces: str, config: VideoClipsConfig, store: ArtifactStore, dvc: Dvc) -> None:
    """A data.dvc that someone else has changed is not overwritten, unless it tracks the sample."""
    tracked = dvc.tracked_version(store.project_folder)
    if _tracked_real(store, dvc) and tracked not in (version, replaces) and not config.force:
        raise DatasetError(
            f"data.dvc names version {str(tracked)[:8]}, which was not made here, and the archive gives version "
            f"{version[:8]}: set dvc: pull on video_clips to take the former, or force: true to track the latter."
        )


def _track(
    published: Artifact,
    config: VideoClipsConfig,
    store: ArtifactStore,
    dvc: Dvc,
    log: Callable[[str], None],
    *,
    rebuilt: bool,
) -> None:
    """Bring data.dvc and DVC's cache to what was published."""
    version = published.record.data_version
    whole = dvc.tracked_dataset(store.project_folder) is not None
    if dvc.tracked_version(store.project_folder) == version and whole and not rebuilt:
        return
    _refuse_retracking(version, published.record.metadata["replaces"], config, store, dvc)
    files: list[FileHash] = json.loads(published.file(CLIP_HASHES).read_text())
    tracked = dvc.add(store.project_folder, published.record.lineage["dataset"], files, log)
    if tracked != version:
        raise DatasetError(
            f"DVC gives data/ the version {tracked}, har_assets {version}: something writes to {store.data_folder}, or "
            ".dvcignore leaves files of it out; mend that and materialize video_clips with force: true."
        )


def _unpack(archive: Artifact, staging: Path, workers: int, log: Callable[[str], None]) -> tuple[str, ...]:
    """Fill an empty folder from the archive; return what was odd."""
    from har_assets.dataset.archive import extract_split_lists, extract_videos

    figures = archive.record.metadata
    report = extract_videos(
        archive.folder / figures["archive"],  # an absolute path stays as it is
        staging / VIDEOS,
        workers=workers or None,
        log=log,
    )
    listed: tuple[str, ...] = ()
    if figures["split_lists"]:
        extract_split_lists(archive.folder / figures["split_lists"], staging / SPLITS, log=log)
        listed = tuple({path.name.split("_test_split")[0] for path in (staging / SPLITS).glob("*.txt")})
    name = archive.record.lineage["dataset"]
    Dataset(
        name=name,
        synthetic=archive.record.lineage["synthetic"],
        classes=class_list(name, report.classes, listed),
        complete=is_complete(name, report.classes, listed, report.videos),
    ).write(staging)
    for path in staging.rglob("*"):
        if path.is_file():
            path.chmod(0o444)  # a hard link shares its bytes with DVC's cache
    return report.notes


def _still_there(artifact: Artifact, data: Path) -> bool:
    """True when `data/` is what video_clips published: same data set, same number and bytes of videos."""
    clips = [path for path in (data / VIDEOS).rglob("*") if path.is_file()]
    same_file = (data / DATASET_FILE).is_file() and (
        (data / DATASET_FILE).read_text() == artifact.file(DATASET_FILE).read_text()
    )
    return (
        same_file
        and len(clips) == artifact.record.metadata["clips"]
        and sum(path.stat().st_size for path in clips) == artifact.record.metadata["video_bytes"]
    )


def data_here(store: ArtifactStore) -> Path:
    """`data/` of this machine. On a node of a cluster it is first brought to what video_clips published.

    There it is a copy, made where a step first needs it: from raw_archive, else by DVC. Raises HarError.
    """
    data = store.data_folder
    if not cluster_address():
        return data
    published = store.latest("video_clips")
    with locked(data, logger.info):
        recover_data(data, logger.info)
        if _still_there(published, data):
            return data
        version = published.record.data_version
        logger.info("Restoring version %s of data/ on this node.", version[:8])
        with _new_data(data) as staging:
            archive = store.folder.find_latest("raw_archive")
            if archive is not None and archive.record.metadata["source"] != DVC:
                if not (archive.folder / archive.record.metadata["archive"]).exists():
                    raise DatasetError(
                        f"{archive.record.metadata['archive']} is not on this node: put it there under the same path, "
                        "or on a disk that all nodes share."
                    )
                _unpack(archive, staging, 0, logger.info)
            else:
                Dvc().restore(store.project_folder, staging, logger.info)
            if (found := version_of(files_of(staging))) != version:
                raise DatasetError(
                    f"The source gives this node the version {found[:8]} of data/, and video_clips published "
                    f"{version[:8]}: materialize video_clips again, with all assets after it."
                )
    return data


class ManifestsConfig(AssetConfig):
    """Which clips train, validate and test."""

    split: int = 1
    """Official split 1, 2 or 3."""
    val_fraction: float = 0.15
    """Share of the training clips held out for validation, by whole source films."""
    seed: int = 0
    """Seed of the choice of films."""


MANIFEST_CHECKS = {
    "films_on_both_sides": "No source film is on both sides of a border: train, validation and test share none "
    "(between these and test within a class).",
    "missing_files": "Every clip of the manifests is on disk, with the size that it had.",
    "duplicate_names": "No clip stands in the manifests twice.",
    "class_share": "About 30 % of each class are test clips. A warning where the data is not HMDB51.",
    "label_problems": "Label, index and folder of every clip agree with the class list.",
    "full_dataset_problems": "Where all of HMDB51 is claimed: 51 classes, 6,766 clips, 3,570 to train on and 1,530 "
    "to test.",
}


@dg.multi_asset(
    name="manifests",
    op_tags=needs(),
    specs=[
        dg.AssetSpec(
            f"{role}_manifest",
            deps=[video_clips],
            group_name="dataset",
            kinds={"pandas"},
            code_version="1",
            tags={"har/stage": "data"},
            description=f"The {meaning} of one split as a CSV: clip, label, label_index, film, role, size.",
            skippable=True,
        )
        for role, meaning in (
            ("train", "training clips"),
            ("val", "validation clips, held out of the training films,"),
            ("test", "test clips"),
        )
    ],
    check_specs=[
        dg.AssetCheckSpec(name, asset="test_manifest", description=description)
        for name, description in MANIFEST_CHECKS.items()
    ],
    can_subset=True,
)
def manifests(
    context: dg.AssetExecutionContext, config: ManifestsConfig, store: ArtifactStore
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Sort the clips by the official lists, or by a seeded split where there are none."""
    with failures_in_words():
        made, problems, dataset = sorted_clips(config, store)
        for note in made.summary["notes"]:
            context.log.info(note)
    checks = {
        # A class away from 70/30 is an error in HMDB51 and no more than worth a look in other data.
        name: {
            "passed": not problems.get(name),
            "problems": problems.get(name, []),
            "warning": name == "class_share" and not dataset.complete,
        }
        for name in MANIFEST_CHECKS
    }

    if not_full := problems.get("full_dataset_problems"):
        selected = {key.name for key in context.selected_asset_check_keys}
        yield from check_results("test_manifest", {name: checks[name] for name in MANIFEST_CHECKS if name in selected})
        with failures_in_words():
            raise DatasetError(
                f"data/ claims to be all of HMDB51 and is not ({' '.join(not_full).rstrip('.')}): fetch the archive "
                "again with force: true on raw_archive, or give an archive of a part of it another name than hmdb51."
            )

    for role, table in made.items():
        if dg.AssetKey(f"{role}_manifest") not in context.selected_asset_keys:
            continue

        def product_of(build: Build, role: str = role, table: "pd.DataFrame" = table) -> Product:
            return manifest_product(build, role, table, made.summary, config, checks if role == "test" else {})

        yield publish(context, store, config, product_of, asset=f"{role}_manifest", upstream=("video_clips",))


def sorted_clips(config: ManifestsConfig, store: ArtifactStore) -> "tuple[Manifests, dict[str, list[str]], Dataset]":
    """The manifests of a split, what is wrong with them by name of the check, and the data set. Raises HarError."""
    from har_assets.dataset.splits import build_manifests, check_manifests

    store.latest("video_clips")
    data = data_here(store)
    dataset = Dataset.read(data)
    lists = data / SPLITS
    made = build_manifests(
        data / VIDEOS,
        lists if lists.is_dir() else None,
        split=config.split,
        class_names=dataset.classes,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )
    return made, check_manifests(made, data / VIDEOS, dataset.classes, full_dataset=dataset.complete), dataset


def manifest_product(
    build: Build,
    role: str,
    table: "pd.DataFrame",
    summary: dict[str, Any],
    config: ManifestsConfig,
    checks: dict[str, dict[str, Any]],
) -> Product:
    """Write the manifest of a role, `train.csv` for instance, into the folder of its asset."""
    from har_assets.dataset.splits import write_manifest

    write_manifest(table, build.folder / f"{role}.csv")
    lineage = {"split": config.split, "split_seed": config.seed, "val_fraction": config.val_fraction}
    return Product(
        headline=f"{len(table):,} clips of {table['label'].nunique()} classes, split {config.split}",
        metadata={
            "clips": len(table),
            "films": int(table["film"].nunique()),
            "split_source": summary["source"],
            "listed": summary["listed"],
            "absent": summary["absent"],
            "unused": summary["unused"],
            "notes": summary["notes"],
            "first_rows": table.head(10).astype(str).to_dict("records"),
        },
        checks=checks,
        lineage=lineage,
        data_version=hash_of([sha256_of(build.folder / f"{role}.csv"), lineage]),
    )


class ClassIndexConfig(AssetConfig):
    """The class index has no options."""


@dg.asset(
    deps=[video_clips],
    group_name="dataset",
    kinds={"csv"},
    code_version="1",
    op_tags=needs(),
    tags={"har/stage": "data"},
)
def class_index(
    context: dg.AssetExecutionContext, config: ClassIndexConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """`index_to_class.csv`: index and name of every class, in the order of the model's scores."""

    def product_of(build: Build) -> Product:
        classes = Dataset.read(data_here(store)).classes
        path = build.folder / "index_to_class.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["index", "class"])
            writer.writerows(enumerate(classes))
        rows = [{"index": index, "class": name} for index, name in enumerate(classes)]
        return Product(f"{len(classes)} classes", metadata={"classes": rows}, data_version=sha256_of(path))

    return publish(context, store, config, product_of, upstream=("video_clips",))


def read_class_index(artifact: Artifact) -> tuple[str, ...]:
    """Class names in index order, from a published class_index."""
    with artifact.file("index_to_class.csv").open(newline="") as file:
        return tuple(row["class"] for row in csv.DictReader(file))


def read_manifest_of(artifact: Artifact, role: str) -> "pd.DataFrame":
    """The table of a published manifest; `role` is train, val or test."""
    from har_assets.dataset.splits import read_manifest

    return read_manifest(artifact.file(f"{role}.csv"))


class FrameCacheConfig(AssetConfig):
    """How videos become frames. The defaults fit the sample; conf/hmdb51.yaml has those for HMDB51."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {"workers", "timeout_s", "shard_clips"}

    height: int = 36
    """Height of the kept frames, pixels."""
    width: int = 48
    """Width of the kept frames, pixels."""
    stride: int = 2
    """Every how many frames of the video one is kept."""
    max_frames: int = 64
    """Frames kept of a clip at most."""
    workers: int = 0
    """Processes that decode; 0 takes one a core."""
    timeout_s: float = 120.0
    """Seconds that decoding one video may take before it is quarantined."""
    shard_clips: int = 256
    """Clips that one node of a Ray cluster decodes at a time."""


@dg.asset(
    deps=["train_manifest", "val_manifest", "test_manifest"],
    group_name="dataset",
    kinds={"numpy"},
    code_version="1",
    op_tags=needs(0),  # the CPUs are for its shards
    tags={"har/stage": "data"},
    check_specs=[
        dg.AssetCheckSpec(
            "all_clips_decoded", asset="frame_cache", description="No clip is quarantined; a warning where some are."
        )
    ],
)
def frame_cache(
    context: dg.AssetExecutionContext, config: FrameCacheConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """Every clip of the split decoded once, to uint8 RGB frames in memory-mapped packs.

    A clip that gives no frame is quarantined: listed here with its reason, left out of training and counted
    as wrong in the evaluation.
    """
    from har_assets.video.frame_cache import clear_work

    shards = planned_shards(config, store) if cluster_address() else {}
    previous = store.folder.find_latest("frame_cache")
    work = store.folder.root / "frame_cache" / ".work"
    result = publish(
        context,
        store,
        config,
        lambda build: cached_frames(build, config, store, previous, work, context.log.info, shards),
        upstream=("train_manifest", "val_manifest", "test_manifest"),
    )
    clear_work(work)
    if shards:
        from har_assets.cluster.frames import PART
        from har_assets.cluster.sharding import remove_parts

        with failures_in_words():
            remove_parts(PART, shards, store)
    return result


def planned_shards(config: FrameCacheConfig, store: ArtifactStore) -> dict[str, list[str]]:
    """Key of each part of a frame cache to its clips; empty where one process does: few clips that are new."""
    from har_assets.cluster.frames import frame_shards
    from har_assets.video.frame_cache import CacheParams, FrameCache

    with failures_in_words():
        listing: list[FileHash] = json.loads(store.latest("video_clips").file(CLIP_HASHES).read_text())
        known = {file["relpath"]: file["md5"] for file in listing}
        tables = [read_manifest_of(store.latest(f"{role}_manifest"), role) for role in ROLES]
        params = CacheParams(config.height, config.width, config.stride, config.max_frames)
        hashes = {clip: known[f"{VIDEOS}/{clip}"] for table in tables for clip in table["clip"]}
        previous = store.folder.find_latest("frame_cache")
        there: set[str] = set()
        if previous is not None:
            before = FrameCache(previous.folder)
            there = set(before.rows.clips) if before.params == params else set()
        few = len(hashes.keys() - there) <= config.shard_clips
        return {} if few else frame_shards(hashes, params, config.timeout_s, config.shard_clips)


def cached_frames(
    build: Build,
    config: FrameCacheConfig,
    store: ArtifactStore,
    previous: Artifact | None,
    work: Path,
    log: Callable[[str], None],
    shards: dict[str, list[str]] | None = None,
) -> Product:
    """Decode every clip of the manifests into the folder of the asset.

    `previous` lends what it has decoded; `work` is kept between attempts, to be cleared when this is published.
    """
    from har_assets.video.frame_cache import CacheParams, build_frame_cache

    params = CacheParams(config.height, config.width, config.stride, config.max_frames)
    packs: dict[str, Artifact] = {}
    if shards:
        from har_assets.cluster.frames import build_on_cluster

        report, packs = build_on_cluster(
            shards, store=store, params=params, timeout_s=config.timeout_s, folder=build.folder, log=log
        )
    else:
        tables = [read_manifest_of(build.inputs[f"{role}_manifest"], role) for role in ROLES]
        videos = data_here(store) / VIDEOS
        report = build_frame_cache(
            {clip: videos / clip for table in tables for clip in table["clip"]},
            params=params,
            folder=build.folder,
            work=work,
            previous=previous.folder if previous else None,
            workers=config.workers or None,
            timeout_s=config.timeout_s,
            log=log,
        )
    quarantine = [{"clip": clip, "reason": reason} for clip, reason in report.quarantined.items()]
    headline = f"{report.clips:,} clips, {report.frames:,} frames of {config.height}x{config.width}"
    return Product(
        headline=headline + (f", {len(quarantine)} quarantined" if quarantine else ""),
        metadata={
            "clips": report.clips,
            "frames": report.frames,
            "decoded": report.decoded,
            "reused": report.reused,
            "resumed": report.resumed,
            "clips_per_second": round(report.decoded / max(report.seconds, 1e-9), 1),
            "quarantine": quarantine,
            "notes": [{"clip": clip, "note": note} for clip, note in report.notes.items()],
        },
        checks={
            "all_clips_decoded": {
                "passed": not quarantine,
                "warning": True,
                "quarantined": len(quarantine),
            }
        },
        linked=packs,
        clips=report.decoded,
    )
