"""From a source to frames: raw_archive, video_clips, manifests, class_index, frame_cache."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import dagster as dg

from har_assets import settings
from har_assets.dataset import clips
from har_assets.dataset.checks import MANIFEST_CHECKS
from har_assets.dataset.class_index import CLASS_INDEX, class_index_product
from har_assets.dataset.clips import DataUpdate, updating
from har_assets.dataset.folder import changed_files, published_files
from har_assets.dataset.manifests import MANIFESTS as MANIFEST_TABLES
from har_assets.dataset.manifests import ROLES
from har_assets.dataset.source import choose_source, source_of
from har_assets.dataset.sources.source import Request
from har_assets.graph.asset import CONFIGS, AssetConfig, stage_asset, stage_needs, stage_spec
from har_assets.graph.assets.data_dvc import observed_by
from har_assets.graph.failures import failures_in_words
from har_assets.graph.publishing import check_results, publish
from har_assets.graph.resources.dvc import Dvc
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.run_config import shared_value
from har_assets.graph.stage import MANIFESTS
from har_assets.options import added
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.files import Log
from har_assets.video.options import FrameOptions

if TYPE_CHECKING:
    from har_assets.dataset.sorting import SortedClips


class RawArchiveConfig(AssetConfig):
    """Where the videos come from."""

    not_content: ClassVar[frozenset[str]] = frozenset({"workers", "source", "download_hosts"})

    source: str = ""
    """`sample` (built in, synthetic), `hmdb51` (downloaded), `dvc` (no archive: video_clips is restored as
    data.dvc says), or the path of an archive or folder of one's own: a RAR, ZIP, 7z or TAR of class folders or of
    one archive a class. Empty goes on with the source that the project has, or takes the environment variable
    HAR_SOURCE, or `dvc` where data.dvc tracks a real data set, or the sample."""
    split_lists: str = ""
    """Path of a list of the videos, or of an archive or folder of lists, for a source of one's own: of HMDB51's,
    UCF101's or Something-Something's format, or a CSV with the columns video, label and, if wanted, split and group
    (docs/own_data.md). Empty: the folders train, val and test of the source, else a seeded split."""
    label: str = added("auto")
    """Which folder names the class of a video, for a source of one's own: `parent`, the one that holds it; `top`, the
    outermost; `csv`, none, it is told by split_lists. `auto` takes lists or folders where they can be read in one way,
    and refuses others (docs/own_data.md)."""
    names_code_page: str = added("")
    """Code page of names in an archive of one's own that does not mark them as UTF-8, `cp850` or `gb18030` for
    instance. Empty: UTF-8 where they are that, else the code page that fits them best, which the notes of video_clips
    say."""
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


@stage_asset("raw_archive")
def raw_archive(
    context: dg.AssetExecutionContext, config: RawArchiveConfig, store: ArtifactStore, dvc: Dvc
) -> dg.MaterializeResult:
    """The archive of videos and the archive of split lists, as they came, with their hashes.

    The built-in sample is rendered here (it is synthetic); HMDB51 is downloaded; an archive of one's own
    stays where it is and is recorded by path and hash. Where DVC restores the data there is no archive.
    """
    pulled = shared_value(context, "video_clips", "dvc", "") == "pull"
    name = choose_source(config.source, store.project_folder, store.folder, dvc, pulled=pulled)
    source = source_of(name)
    request = Request(
        name,
        store.project_folder,
        store.folder,
        dvc,
        split_lists=config.split_lists,
        names_code_page=config.names_code_page,
        label=config.label,
        archive_urls=config.archive_urls,
        split_lists_urls=config.split_lists_urls,
        download_hosts=config.download_hosts,
        sha256=config.sha256,
        workers=config.workers or None,
        log=context.log.info,
        warn=context.log.warning,
    )
    identity = source.identity(request)
    return publish(context, store, config, lambda build: source.build(build, request), identity=identity)


class VideoClipsConfig(AssetConfig):
    """How `data/` is filled and versioned."""

    not_content: ClassVar[frozenset[str]] = frozenset({"dvc", "workers"})

    dvc: str = "add"
    """`off`: data/ without DVC. `add`: track it in data.dvc. `push`: add, then copy to the remote. `pull`: take
    the data that data.dvc names from DVC's cache or remote; raw_archive is not needed."""
    workers: int = 0
    """Threads that unpack; 0 takes one a core, four at most."""


@stage_asset("video_clips")
def video_clips(
    context: dg.AssetExecutionContext, config: VideoClipsConfig, store: ArtifactStore, dvc: Dvc
) -> dg.MaterializeResult:
    """The videos in `data/`, one folder a class, read-only, versioned by the md5 that DVC gives `data/`.

    Replacing a real data set by another, or by the sample, needs `force: true`.
    """
    update = DataUpdate(
        store.project_folder,
        store.folder,
        dvc,
        mode=config.dvc,
        force=config.force,
        workers=config.workers,
        log=context.log.info,
    )
    with updating(update):
        result = publish(
            context,
            store,
            config,
            update.build,
            inputs=update.upstream,
            identity=update.identity,
            reusable=update.is_still_there,
        )
        update.track()
        observed_by(context, dvc.tracked_version(store.project_folder))
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


def data_here(store: ArtifactStore) -> Path:
    """`data/` of this machine; on a node of a cluster it is first brought to what video_clips published."""
    return clips.data_here(store.project_folder, store.data_store, on_cluster=bool(settings.read().ray))


class ManifestsConfig(AssetConfig):
    """Which clips train, validate and test."""

    split: int = 1
    """Official split 1, 2 or 3."""
    val_fraction: float = 0.15
    """Share of the training clips held out for validation, by whole source films."""
    seed: int = 0
    """Seed of the choice of films."""
    groups: str = added("auto")
    """What tells which videos are of one recording, the film, person or session that a split keeps together. `auto`:
    lists, folders or names as HMDB51's and UCF101's where they tell it, else what names and pictures suggest. `name`:
    such names alone. `folder`: the folders below the class (`label: top` of raw_archive). A regular expression: its one
    group, found in `<class>/<file>`. `none`: each video counts for itself (docs/own_data.md)."""


@dg.multi_asset(
    name="manifests",
    op_tags=stage_needs("train_manifest"),
    specs=[
        stage_spec(
            f"{role}_manifest",
            f"The {meaning} of one split as a CSV: clip, label, label_index, film, role, size.",
            MANIFEST_TABLES[role],
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
        found = sorted_clips(config, store, context.log.info)
    for note in found.manifests.summary["notes"]:
        context.log.info(note)
    if found.is_refused:  # nothing is published, and the checks say why
        selected = {key.name for key in context.selected_asset_check_keys}
        yield from check_results("test_manifest", {n: check for n, check in found.checks.items() if n in selected})
        with failures_in_words():
            found.refuse()
    for role in ROLES:
        if dg.AssetKey(f"{role}_manifest") in context.selected_asset_keys:
            yield publish(
                context,
                store,
                config,
                partial(found.product, role=role),
                asset=f"{role}_manifest",
                identity=found.identity,
            )


def sorted_clips(config: ManifestsConfig, store: ArtifactStore, log: Log) -> "SortedClips":
    """The clips of `data/` sorted by a split. Raises HarError."""
    from har_assets.dataset.fingerprints import Content
    from har_assets.dataset.sorting import sort_clips

    published = store.latest("video_clips")
    data = data_here(store)
    work = store.data_store.local.home("test_manifest") / ".work-fingerprints"
    return sort_clips(
        data,
        split=config.split,
        val_fraction=config.val_fraction,
        seed=config.seed,
        groups=config.groups,
        content=Content.of(data, published_files(published), work, log),
    )


CONFIGS.update(dict.fromkeys(MANIFESTS, ManifestsConfig))


class ClassIndexConfig(AssetConfig):
    """The class index has no options."""


@stage_asset("class_index", CLASS_INDEX)
def class_index(
    context: dg.AssetExecutionContext, config: ClassIndexConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """`index_to_class.csv`: index and name of every class, in the order of the model's scores."""
    return publish(
        context,
        store,
        config,
        lambda build: class_index_product(build, data_here(store)),
    )


class FrameCacheConfig(FrameOptions, AssetConfig):
    """How videos become frames. The defaults fit the sample; conf/hmdb51.yaml has those for HMDB51."""


@stage_asset(
    "frame_cache",
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
    from har_assets.cluster import frames
    from har_assets.cluster.sharding import remove_parts
    from har_assets.video.frame_cache import clear_work

    shards: dict[str, list[str]] = {}
    whole: frozenset[str] = frozenset()
    if settings.read().ray:
        shards, whole = frames.planned_shards(store.folder, config.params, config.timeout_s, config.shard_clips)
    previous = store.folder.find_latest("frame_cache")
    work = store.folder.root / "frame_cache" / ".work"
    result = publish(
        context,
        store,
        config,
        lambda build: cached_frames(build, config, store, previous, work, context.log.info, shards, whole),
    )
    clear_work(work)
    if shards:
        remove_parts(frames.PART, shards, store.folder)
    return result


def cached_frames(
    build: Build,
    config: FrameCacheConfig,
    store: ArtifactStore,
    previous: Artifact | None,
    work: Path,
    log: Log,
    shards: dict[str, list[str]] | None = None,
    whole: frozenset[str] = frozenset(),
) -> Product:
    """Decode every clip of the manifests into the folder of the asset, over the nodes of a cluster where it has shards.

    `previous`: a frame cache whose frames are taken over; `work`: kept between attempts; `whole`: clips of which the
    shards keep every frame. Raises HarError.
    """
    from har_assets.dataset.cache import cache_product, decode_clips

    if shards:
        from har_assets.cluster.frames import build_on_cluster

        report, packs = build_on_cluster(
            shards,
            location=store.location,
            params=config.params,
            timeout_s=config.timeout_s,
            folder=build.folder,
            log=log,
            whole=whole,
        )
        return cache_product(report, config.params, packs)
    report = decode_clips(
        build,
        data_here(store),
        config.params,
        work=work,
        previous=previous,
        workers=config.workers or None,
        timeout_s=config.timeout_s,
        log=log,
    )
    return cache_product(report, config.params)
