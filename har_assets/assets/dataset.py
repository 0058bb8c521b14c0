"""From a source to frames: raw_archive, video_clips, manifests, class_index, frame_cache."""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg

from har_assets.artifacts import Artifact, hash_of, sha256_of
from har_assets.assets.publishing import AssetConfig, Making, Product, failures_in_words, publish
from har_assets.errors import DatasetError, HarError
from har_assets.hmdb51.dataset import SPLITS, VIDEOS, Dataset, class_list, data_hash, is_complete
from har_assets.resources.dvc import Dvc
from har_assets.resources.store import ArtifactStore

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("train", "val", "test")
SAMPLE = "sample"
HMDB51 = "hmdb51"


class RawArchiveConfig(AssetConfig):
    """Where the videos come from."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {"workers", "source"}

    source: str = ""
    """`sample` (built in, synthetic), `hmdb51` (downloaded), or the path of an archive or folder of one's own:
    a RAR, ZIP or TAR of class folders or of one archive a class. Empty goes on with the source that the
    project has, or takes the environment variable HAR_SOURCE, or the sample."""
    split_lists: str = ""
    """Path of an archive or folder of split lists in HMDB51's format, for a source of one's own; empty: a
    seeded split is made."""
    archive_urls: list[str] = []
    """Mirrors of hmdb51_org.rar; empty takes the home page of the data set."""
    split_lists_urls: list[str] = []
    """Mirrors of test_train_splits.rar; empty takes the home page of the data set."""
    sha256: str = ""
    """SHA-256 that the archive must have; empty trusts the first download and records its hash."""
    workers: int = 0
    """Processes that render the sample; 0 takes one a core."""


@dg.asset(
    group_name="dataset",
    kinds={"python"},
    code_version="1",
    tags={"har/stage": "data"},
    retry_policy=None,
)
def raw_archive(
    context: dg.AssetExecutionContext, config: RawArchiveConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """The archive of videos and the archive of split lists, as they came, with their hashes.

    The built-in sample is rendered here (it is synthetic); HMDB51 is downloaded; an archive of one's own
    stays where it is and is recorded by path and hash.
    """
    with failures_in_words():
        source = choose_source(config.source, store)
        identity = _source_identity(source, config, store)

    def build(making: Making) -> Product:
        if source == SAMPLE:
            from har_assets.hmdb51.sample import write_sample  # noqa: PLC0415

            files = write_sample(making.folder, workers=config.workers or None, log=context.log.info)
            archive, lists = files.archive.name, files.split_lists.name
        elif source == HMDB51:
            archive, lists = _download_hmdb51(making.folder, config, context, store)
        else:
            archive, lists = identity["archive"], identity["split_lists"]
        size = identity.get("bytes") or (making.folder / archive).stat().st_size
        name = source if source in (SAMPLE, HMDB51) else Path(source).name.split(".")[0]
        return Product(
            headline=f"{name}: {size / 1e6:.1f} MB" + (" (synthetic)" if source == SAMPLE else ""),
            metadata={"source": source, "archive": archive, "split_lists": lists, "dataset": name},
            lineage={"dataset": name, "synthetic": source == SAMPLE},
        )

    return publish(context, store, config, build, identity=identity)


def choose_source(wanted: str, store: ArtifactStore) -> str:
    """`sample`, `hmdb51` or an absolute path; HarError for anything else."""
    published = store.folder.find_latest("raw_archive")
    source = wanted or (published.record.metadata["source"] if published else "") or os.environ.get("HAR_SOURCE", "")
    if source in ("", SAMPLE, HMDB51):
        return source or SAMPLE
    path = Path(source.removeprefix("file://")).expanduser()
    path = path if path.is_absolute() else store.project_folder / path
    if not path.exists():
        raise HarError(
            f"There is no source {source!r}: choose {SAMPLE}, {HMDB51}, or the path of an existing archive or folder."
        )
    return str(path)


def _source_identity(source: str, config: RawArchiveConfig, store: ArtifactStore) -> dict[str, Any]:
    """What decides the content of a source, cheap to ask: version, addresses, or the files' hashes."""
    if source == SAMPLE:
        from har_assets.hmdb51.sample import SAMPLE_VERSION  # noqa: PLC0415

        return {"sample": SAMPLE_VERSION}
    if source == HMDB51:
        return {"hmdb51": "2013-10"}
    lists = ""
    if config.split_lists:
        path = Path(config.split_lists).expanduser()
        path = path if path.is_absolute() else store.project_folder / path
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
    return hash_of([
        [file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns]
        for file in sorted(path.rglob("*")) if file.is_file()
    ])  # fmt: skip


def _size_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _download_hmdb51(
    folder: Path, config: RawArchiveConfig, context: dg.AssetExecutionContext, store: ArtifactStore
) -> tuple[str, str]:
    """Fetch both archives of HMDB51 into the store's work folder, then link them into `folder`."""
    from har_assets.hmdb51 import download as dl  # noqa: PLC0415

    work = store.folder.root / "raw_archive" / ".downloads"
    work.mkdir(parents=True, exist_ok=True)
    archive = dl.download(
        config.archive_urls or dl.HMDB51_ARCHIVE_URLS,
        work / "hmdb51_org.rar",
        sha256=config.sha256 or None,
        log=context.log.info,
    )
    lists = dl.download(
        config.split_lists_urls or dl.HMDB51_SPLITS_URLS,
        work / "test_train_splits.rar",
        md5=dl.HMDB51_SPLITS_MD5,
        log=context.log.info,
    )
    for result in (archive, lists):
        os.link(result.path, folder / result.path.name)
    return archive.path.name, lists.path.name


class VideoClipsConfig(AssetConfig):
    """How `data/` is filled and versioned."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {"dvc", "workers"}

    dvc: str = "add"
    """`off`: data/ without DVC. `add`: track it in data.dvc. `push`: add, then copy to the remote. `pull`: take
    the data that data.dvc names from the cache or the remote instead of the archive."""
    workers: int = 0
    """Threads that unpack; 0 takes one a core, four at most."""


@dg.asset(deps=[raw_archive], group_name="dataset", kinds={"dvc"}, code_version="1", tags={"har/stage": "data"})
def video_clips(
    context: dg.AssetExecutionContext, config: VideoClipsConfig, store: ArtifactStore, dvc: Dvc
) -> dg.MaterializeResult:
    """The videos in `data/`, one folder a class, read-only, versioned by the md5 that DVC gives `data/`.

    Replacing a real data set by another, or by the sample, needs `force: true`.
    """
    with failures_in_words():
        if config.dvc not in ("off", "add", "push", "pull"):
            raise HarError(f"There is no dvc mode {config.dvc!r}: choose off, add, push or pull.")
        archive = store.latest("raw_archive")
        _refuse_replacement(archive, config, store, dvc)

    def build(making: Making) -> Product:
        data = store.data_folder
        if config.dvc == "pull":
            dvc.pull(store.project_folder, context.log.info)
            notes: tuple[str, ...] = ()
        else:
            notes = _unpack(making.inputs["raw_archive"], data, config, context)
        dataset = Dataset.read(data)
        version = data_hash(data)
        clips = [path for path in (data / VIDEOS).rglob("*") if path.is_file()]
        per_class = Counter(path.parent.name for path in clips)
        (making.folder / "dataset.json").write_text((data / "dataset.json").read_text())
        return Product(
            headline=f"{len(clips):,} clips of {len(per_class)} classes"
            + (" (synthetic)" if dataset.synthetic else ""),
            metadata={
                "clips": len(clips),
                "video_bytes": sum(path.stat().st_size for path in clips),
                "clips_per_class": [{"class": name, "clips": count} for name, count in sorted(per_class.items())],
                "notes": list(notes),
                "data_folder": str(data),
            },
            lineage={"dataset": dataset.name, "synthetic": dataset.synthetic, "data_version": version},
            data_version=version,
        )

    def reusable(artifact: Artifact) -> bool:
        return config.dvc != "pull" and _still_there(artifact, store.data_folder)

    result = publish(
        context, store, config, build, upstream=("raw_archive",), reusable=reusable,
        identity={"dvc_pull": dvc.tracked_version(store.project_folder)} if config.dvc == "pull" else None,
    )  # fmt: skip
    with failures_in_words():
        if config.dvc in ("add", "push"):
            version = store.latest("video_clips").record.data_version
            dataset = Dataset.read(store.data_folder).name
            if dvc.tracked_version(store.project_folder) != version:
                tracked = dvc.add(store.project_folder, dataset, context.log.info)
                if tracked != version:
                    raise DatasetError(
                        f"DVC gives data/ the version {tracked}, har_assets {version}: something writes to "
                        f"{store.data_folder}; stop it and materialize video_clips with force: true."
                    )
        if config.dvc == "push":
            dvc.push(store.project_folder, context.log.info)
    return result


def _refuse_replacement(archive: Artifact, config: VideoClipsConfig, store: ArtifactStore, dvc: Dvc) -> None:
    """A real data set is replaced by another only with force."""
    data = store.data_folder
    present = (
        Dataset.read(data).name if (data / "dataset.json").is_file() else dvc.tracked_dataset(store.project_folder)
    )
    coming = archive.record.lineage["dataset"]
    if present not in (None, SAMPLE, coming) and not config.force and config.dvc != "pull":
        raise DatasetError(
            f"data/ holds (or data.dvc tracks) the data set {present!r}, the archive is {coming!r}: set force: true on "
            "video_clips to replace it, or materialize raw_archive from the source you mean."
        )
    if data.exists() and not (data / "dataset.json").is_file() and any(data.iterdir()) and not config.force:
        raise DatasetError(
            f"{data} exists and was not made by har_assets: move it away and name it as the source, or set force: true."
        )


def _unpack(
    archive: Artifact, data: Path, config: VideoClipsConfig, context: dg.AssetExecutionContext
) -> tuple[str, ...]:
    """Fill a staging folder beside `data/` and swap it in."""
    from har_assets.hmdb51.archive import extract_split_lists, extract_videos  # noqa: PLC0415

    figures = archive.record.metadata
    staging = data.with_name(f".{data.name}.staging")
    _remove(staging)
    staging.mkdir(parents=True)
    try:
        report = extract_videos(
            archive.folder / figures["archive"],  # an absolute path stays as it is
            staging / VIDEOS,
            workers=config.workers or None,
            log=context.log.info,
        )
        listed: tuple[str, ...] = ()
        if figures["split_lists"]:
            extract_split_lists(archive.folder / figures["split_lists"], staging / SPLITS, log=context.log.info)
            listed = tuple({path.name.split("_test_split")[0] for path in (staging / SPLITS).glob("*.txt")})
        name = archive.record.lineage["dataset"]
        Dataset(
            name=name,
            synthetic=archive.record.lineage["synthetic"],
            classes=class_list(name, report.classes, listed),
            complete=is_complete(name, report.videos),
        ).write(staging)
        old = data.with_name(f".{data.name}.replaced")
        _remove(old)
        if data.exists():
            data.rename(old)
        staging.rename(data)
        _remove(old)
    finally:
        _remove(staging)
    return report.notes


def _remove(folder: Path) -> None:
    """Remove a tree whose files may be read-only."""
    if folder.exists():
        shutil.rmtree(folder)


def _still_there(artifact: Artifact, data: Path) -> bool:
    """True when `data/` is what video_clips published: same data set, same number and bytes of videos."""
    clips = [path for path in (data / VIDEOS).rglob("*") if path.is_file()]
    same_file = (data / "dataset.json").is_file() and (
        (data / "dataset.json").read_text() == artifact.file("dataset.json").read_text()
    )
    return (
        same_file
        and len(clips) == artifact.record.metadata["clips"]
        and sum(path.stat().st_size for path in clips) == artifact.record.metadata["video_bytes"]
    )


class ManifestsConfig(AssetConfig):
    """Which clips train, validate and test."""

    split: int = 1
    """Official split 1, 2 or 3."""
    val_fraction: float = 0.15
    """Share of the training clips held out for validation, by whole source films."""
    seed: int = 0
    """Seed of the choice of films."""


MANIFEST_CHECKS = ("films_on_both_sides", "missing_files", "duplicate_names", "class_share", "label_problems",
                   "full_dataset_problems")  # fmt: skip


@dg.multi_asset(
    name="manifests",
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
    check_specs=[dg.AssetCheckSpec(name, asset="test_manifest") for name in MANIFEST_CHECKS],
    can_subset=True,
)
def manifests(
    context: dg.AssetExecutionContext, config: ManifestsConfig, store: ArtifactStore
) -> Iterator[dg.MaterializeResult]:
    """Sort the clips by the official lists, or by a seeded split where there are none."""
    from har_assets.hmdb51.splits import build_manifests, check_manifests, write_manifest  # noqa: PLC0415

    with failures_in_words():
        store.latest("video_clips")
        data = store.data_folder
        dataset = Dataset.read(data)
        if dataset.complete and config.split not in (1, 2, 3):
            raise DatasetError(f"HMDB51 has the splits 1, 2 and 3, not {config.split}: set split to one of them.")
        lists = data / SPLITS
        made = build_manifests(
            data / VIDEOS,
            lists if lists.is_dir() else None,
            split=config.split,
            class_names=dataset.classes,
            val_fraction=config.val_fraction,
            seed=config.seed,
        )
        problems = check_manifests(made, data / VIDEOS, dataset.classes, full_dataset=dataset.complete)
        for note in made.summary["notes"]:
            context.log.info(note)
    checks = {
        # A class away from 70/30 is an error in HMDB51 and no more than worth a look in other data.
        name: {"passed": not problems.get(name), "problems": problems.get(name, []),
               "warning": name == "class_share" and not dataset.complete}
        for name in MANIFEST_CHECKS
    }  # fmt: skip

    for role, table in made.items():
        if dg.AssetKey(f"{role}_manifest") not in context.selected_asset_keys:
            continue

        def build(making: Making, role: str = role, table: "pd.DataFrame" = table) -> Product:
            write_manifest(table, making.folder / f"{role}.csv")
            lineage = {"split": config.split, "split_seed": config.seed, "val_fraction": config.val_fraction}
            return Product(
                headline=f"{len(table):,} clips of {table['label'].nunique()} classes, split {config.split}",
                metadata={
                    "clips": len(table),
                    "films": int(table["film"].nunique()),
                    "split_source": made.summary["source"],
                    "listed": made.summary["listed"],
                    "absent": made.summary["absent"],
                    "unused": made.summary["unused"],
                    "notes": made.summary["notes"],
                    "first_rows": table.head(10).astype(str).to_dict("records"),
                },
                checks=checks if role == "test" else {},
                lineage=lineage,
                data_version=hash_of([sha256_of(making.folder / f"{role}.csv"), lineage]),
            )

        yield publish(context, store, config, build, asset=f"{role}_manifest", upstream=("video_clips",))


class ClassIndexConfig(AssetConfig):
    """The class index has no options."""


@dg.asset(deps=[video_clips], group_name="dataset", kinds={"csv"}, code_version="1", tags={"har/stage": "data"})
def class_index(
    context: dg.AssetExecutionContext, config: ClassIndexConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """`index_to_class.csv`: index and name of every class, in the order of the model's scores."""

    def build(making: Making) -> Product:
        classes = Dataset.read(store.data_folder).classes
        path = making.folder / "index_to_class.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["index", "class"])
            writer.writerows(enumerate(classes))
        rows = [{"index": index, "class": name} for index, name in enumerate(classes)]
        return Product(f"{len(classes)} classes", metadata={"classes": rows}, data_version=sha256_of(path))

    return publish(context, store, config, build, upstream=("video_clips",))


def read_class_index(artifact: Artifact) -> tuple[str, ...]:
    """Class names in index order, from a published class_index."""
    with artifact.file("index_to_class.csv").open(newline="") as file:
        return tuple(row["class"] for row in csv.DictReader(file))


def read_manifest_of(artifact: Artifact, role: str) -> "pd.DataFrame":
    """The table of a published manifest; `role` is train, val or test."""
    from har_assets.hmdb51.splits import read_manifest  # noqa: PLC0415

    return read_manifest(artifact.file(f"{role}.csv"))


class FrameCacheConfig(AssetConfig):
    """How videos become frames. The defaults fit the sample; conf/hmdb51.yaml has those for HMDB51."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {"workers", "timeout_s"}

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


@dg.asset(
    deps=["train_manifest", "val_manifest", "test_manifest"],
    group_name="dataset",
    kinds={"numpy"},
    code_version="1",
    tags={"har/stage": "data"},
    check_specs=[dg.AssetCheckSpec("all_clips_decoded", asset="frame_cache")],
)
def frame_cache(
    context: dg.AssetExecutionContext, config: FrameCacheConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """Every clip of the split decoded once, to uint8 RGB frames in memory-mapped packs.

    A clip that gives no frame is quarantined: listed here with its reason, left out of training and counted
    as wrong in the evaluation.
    """
    from har_assets.video.frame_cache import CacheParams, build_frame_cache, clear_work  # noqa: PLC0415

    previous = store.folder.find_latest("frame_cache")
    work = store.folder.root / "frame_cache" / ".work"

    def build(making: Making) -> Product:
        tables = [read_manifest_of(making.inputs[f"{role}_manifest"], role) for role in ROLES]
        videos = store.data_folder / VIDEOS
        report = build_frame_cache(
            {clip: videos / clip for table in tables for clip in table["clip"]},
            params=CacheParams(config.height, config.width, config.stride, config.max_frames),
            folder=making.folder,
            work=work,
            previous=previous.folder if previous else None,
            workers=config.workers or None,
            timeout_s=config.timeout_s,
            log=context.log.info,
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
        )

    result = publish(context, store, config, build, upstream=("train_manifest", "val_manifest", "test_manifest"))
    clear_work(work)
    return result
