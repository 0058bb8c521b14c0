"""Checks of a project folder: disk, store, data, what killed runs have left."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from har_assets import settings
from har_assets.cli.doctor.finding import (
    OK,
    PROBLEM,
    WARNING,
    Check,
    Finding,
    size_below,
    some,
)
from har_assets.system.files import format_bytes

SAMPLE_BYTES = 500_000_000
"""Disk that the built-in sample needs with everything made from it."""


HMDB51_BYTES = 25_000_000_000
"""Archive 2 GB, videos 2 GB, frame cache 16 GB, and room to work."""


def check_disk(project: Path) -> Finding:
    """Free space against what the data set of the project needs."""
    from har_assets.store.opening import open_store

    published = open_store(project=project).find_latest("raw_archive")
    source = published.record.lineage.get("dataset", "") if published else settings.read().source
    need = HMDB51_BYTES if source == "hmdb51" else SAMPLE_BYTES
    here = sum(size_below(project / name) for name in ("artifacts", "data"))
    free = shutil.disk_usage(project).free
    found = f"{format_bytes(free)} free, {format_bytes(here)} used by artifacts and data"
    if free + here < need:
        return Finding(
            "disk",
            PROBLEM,
            f"{found}; {source or 'the sample'} needs {format_bytes(need)}",
            "free some space, or put the project on another disk",
        )
    if free + here < HMDB51_BYTES:
        return Finding(
            "disk",
            WARNING,
            f"{found}: not enough for HMDB51 ({format_bytes(HMDB51_BYTES)})",
            "put the project on another disk before `source: hmdb51`",
        )
    return Finding("disk", OK, found)


def check_quota(project: Path) -> Finding:
    """Size of the store against its quota and against what the disk could hold."""
    from har_assets.store.opening import open_store
    from har_assets.system.files import size_of

    store = open_store(project=project)
    quota = store.quota
    if quota is None:
        if store.remote is not None:
            return Finding("quota", OK, f"none, and {store.address} is not measured without one")
        return Finding("quota", OK, f"none; the store holds {format_bytes(size_of(store.root))}")
    used = quota.used()
    found = f"the store holds {format_bytes(used)} of {format_bytes(quota.bytes)}"
    if used > quota.bytes:
        return Finding(
            "quota", PROBLEM, f"{found}: nothing is published", f"har prune, or raise {settings.STORE_QUOTA}"
        )
    if used > 0.9 * quota.bytes:
        return Finding("quota", WARNING, found, f"har prune, or raise {settings.STORE_QUOTA}")
    if store.remote is None and quota.bytes - used > shutil.disk_usage(project).free:
        return Finding("quota", WARNING, f"{found}, and the disk is full before that", f"lower {settings.STORE_QUOTA}")
    return Finding("quota", OK, found)


def check_pruning(project: Path) -> Finding:
    """Versions and abandoned work that `har prune` would remove."""
    from har_assets.store.opening import open_store
    from har_assets.store.pruning import plan_pruning
    from har_assets.tracking.registry import registered_versions
    from har_assets.tracking.run import Tracking

    store = open_store(project=project)
    if store.remote is not None:  # whose every record would have to be read
        return Finding("pruning", OK, f"`har prune` looks at every record of {store.address}, and says what may go")
    plan = plan_pruning(store.root, registered_versions(Tracking().uri(project)))
    if not plan.candidates:
        return Finding("pruning", OK, f"nothing may go, {len(plan.kept)} versions are kept")
    found = f"{len(plan.candidates)} old versions or abandoned work, {format_bytes(plan.bytes)}"
    return Finding("pruning", OK, f"`har prune` would remove {found}")


def check_folders(project: Path) -> Finding:
    """Whether files can be written where the project and its temporary files are."""
    refused = []
    for folder in (project, project / "artifacts", project / ".dagster", Path(tempfile.gettempdir())):
        if not os.path.lexists(folder):
            continue  # made when it is needed, in a folder that is looked at here
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            refused.append(f"{folder} ({error.strerror})")
    if refused:
        return Finding(
            "folders",
            PROBLEM,
            f"nothing can be written to {some(refused)}",
            "mend their permissions or free some space",
        )
    return Finding("folders", OK, "project, artifacts and temporary folder can be written")


def check_bucket(project: Path) -> Finding:
    """Whether products can be put into the bucket, where there is one, and read back."""
    from har_assets.store.opening import open_store

    store = open_store(project=project)
    if store.remote is None:
        return Finding("bucket", OK, f"none: products are in {store.address}")
    return Finding(
        "bucket", OK, f"{store.address} takes, gives and removes an object in {store.remote.try_out():.2f} s"
    )


def check_data(project: Path) -> list[Finding]:
    """data.dvc, data/ and what video_clips published agree; the bytes are on the disk once."""
    from har_assets.dataset.dvc import DvcRepository
    from har_assets.dataset.folder import CLIP_HASHES, changed_files
    from har_assets.store.opening import open_store

    dvc, data = DvcRepository(), project / "data"
    tracked = dvc.tracked_version(project)
    published = open_store(project=project).find_latest("video_clips")
    again = "materialize video_clips with force: true"
    if tracked and not (project / ".dvc").is_dir():
        return [Finding("dvc", PROBLEM, "data.dvc without a .dvc folder", "dvc init --no-scm")]
    if not data.is_dir():
        if tracked and dvc.tracked_dataset(project) != "sample":
            return [
                Finding(
                    "dvc",
                    WARNING,
                    f"data.dvc names version {tracked[:8]} and data/ is absent",
                    "materialize video_clips with dvc: pull",
                )
            ]
        return [Finding("dvc", OK, "no data/ yet")]
    if published is None or CLIP_HASHES not in published.record.files:
        return [Finding("data", WARNING, "data/ is there, its video_clips is not", "materialize video_clips")]
    findings = []
    version = published.record.data_version
    if tracked is None:
        findings.append(Finding("dvc", OK, "data/ is not tracked (dvc: off)"))
    elif tracked != version:
        findings.append(
            Finding(
                "dvc",
                WARNING,
                f"data.dvc names version {tracked[:8]}, data/ is {version[:8]}",
                "materialize video_clips with dvc: pull to take the former",
            )
        )
    else:
        findings.append(Finding("dvc", OK, f"data.dvc and video_clips name version {version[:8]}"))
    changed = [f"{name} ({how})" for how, names in changed_files(published, data).items() for name in names]
    if changed:
        findings.append(Finding("data", PROBLEM, f"not what video_clips published: {some(changed)}", again))
    else:
        findings.append(Finding("data", OK, f"{published.record.headline}, unchanged"))
    if tracked == version and not changed:
        twice = _stored_twice(data, published.file(CLIP_HASHES), dvc.objects_folder(project))
        if twice > 1e6:
            findings.append(Finding("disk", WARNING, f"data/ and DVC's cache hold {format_bytes(twice)} twice", again))
    return findings


def _stored_twice(data: Path, listing: Path, objects: Path) -> int:
    """Bytes of files that data/ and the cache on the same disk hold without sharing them. Reflinks count too."""
    twice = 0
    for file in json.loads(listing.read_text()):
        here, there = data / file["relpath"], objects / file["md5"][:2] / file["md5"][2:]
        if there.is_file() and here.stat().st_dev == there.stat().st_dev and not here.samefile(there):
            twice += here.stat().st_size
    return twice


def check_leftovers(project: Path) -> Finding:
    """Leftovers of killed runs: each is mended or removed by the next run of its asset, or by --fix."""
    left = leftovers(project)
    swap = [name for name in (".data.staging", ".data.replaced") if (project / name).exists()]
    work = [path for path in (project / "artifacts").glob("*/.work-*") if path.is_dir()]
    if left or swap:
        names = [str(path.relative_to(project)) for path in left] + swap
        return Finding(
            "leftovers",
            WARNING,
            f"of killed runs: {some(names)}",
            "materialize video_clips" if swap else "har doctor --fix",
        )
    if work:
        size = sum(size_below(path) for path in work)
        return Finding("leftovers", OK, f"unfinished work that the same command goes on with: {format_bytes(size)}")
    return Finding("leftovers", OK, "none")


def leftovers(project: Path) -> list[Path]:
    """Staging folders whose process has died."""
    from har_assets.store.work_folder import STAGING_PREFIX, is_stale

    return [folder for folder in sorted((project / "artifacts").glob(f"*/{STAGING_PREFIX}*")) if is_stale(folder)]


CHECKS: tuple[Check, ...] = (
    check_disk,
    check_quota,
    check_pruning,
    check_folders,
    check_bucket,
    check_data,
    check_leftovers,
)
