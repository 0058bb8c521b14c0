"""video_clips: `data/` is filled from an archive or by DVC, and never replaces a real data set unasked."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from har_assets.dataset.dvc import DvcRepository, files_of, version_of
from har_assets.dataset.folder import (
    CLIP_HASHES,
    DATASET_FILE,
    SPLITS,
    VIDEOS,
    Dataset,
    clips_below,
    is_still_there,
    new_data,
    published_files,
    recover_data,
)
from har_assets.dataset.sources.restored import DVC
from har_assets.dataset.tracked import UNNAMED, published_version, tracked_real, tracked_version
from har_assets.errors import DatasetError, HarError
from har_assets.store.product import Build, Product
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact
from har_assets.system.files import Log
from har_assets.system.locks import locked

logger = logging.getLogger(__name__)

DVC_MODES = ("off", "add", "push", "pull")


@dataclass
class DataUpdate:
    """One update of `data/`, to be begun by `updating`."""

    project: Path
    """Project folder: `data/`, `data.dvc` and DVC's cache are below it."""
    store: Store
    dvc: DvcRepository
    mode: str
    """One of DVC_MODES."""
    force: bool
    """Replace a real data set by another."""
    workers: int
    """Threads that unpack; 0 takes one a core, four at most."""
    log: Log
    archive: Artifact | None = field(default=None, init=False)
    """The published raw_archive; None where DVC restores the data."""
    rebuilt: bool = field(default=False, init=False)

    @property
    def data(self) -> Path:
        """`data/`."""
        return self.project / "data"

    @property
    def identity(self) -> dict[str, Any] | None:
        """Options that decide the content, beside the archive."""
        return None if self.archive else {"data_dvc": tracked_version(self.project, self.dvc)}

    @property
    def upstream(self) -> tuple[str, ...]:
        """Assets that the content is made from."""
        return ("raw_archive",) if self.archive else ()

    def build(self, build: Build) -> Product:
        """Fill `data/` and describe it. Raises HarError, and leaves `data/` as it was."""
        with new_data(self.data) as staging:
            if self.archive is None:
                notes: tuple[str, ...] = ()
                files = self.dvc.restore(self.project, staging, self.log)
                if not (staging / DATASET_FILE).is_file():
                    raise DatasetError(
                        f"What data.dvc names was not made by har_assets (it has no {DATASET_FILE}): `dvc pull` it, "
                        "move it out of data/ and name that folder as the source of raw_archive."
                    )
            else:
                notes = unpack(build.inputs["raw_archive"], staging, self.workers, self.log)
                for note in notes:
                    self.log(note)
                files = files_of(staging)
            dataset = Dataset.read(staging)
            version = version_of(files)
            tracked = self.dvc.tracked_version(self.project)
            # data.dvc may move on from what it says now: it is ours, or the user wants it.
            replaces = tracked if tracked and (self.force or tracked == published_version(self.store)) else ""
            if self.mode in ("add", "push"):
                self._refuse_retracking(version, replaces)
        self.rebuilt = True
        clips = clips_below(self.data)
        per_class = Counter(path.parent.name for path in clips)
        (build.folder / DATASET_FILE).write_text((self.data / DATASET_FILE).read_text())
        (build.folder / CLIP_HASHES).write_text(json.dumps(files))
        return Product(
            headline=f"{len(clips):,} clips of {len(per_class)} classes"
            + (" (synthetic)" if dataset.synthetic else ""),
            metadata={
                "clips": len(clips),
                "video_bytes": sum(path.stat().st_size for path in clips),
                "clips_per_class": [{"class": name, "clips": count} for name, count in sorted(per_class.items())],
                "notes": list(notes),
                "data_folder": str(self.data),
                "source": self.archive.record.metadata["source"] if self.archive else DVC,
                "replaces": replaces,
            },
            lineage={"dataset": dataset.name, "synthetic": dataset.synthetic, "data_version": version},
            data_version=version,
            clips=len(clips),
        )

    def is_still_there(self, published: Artifact) -> bool:
        """Whether `data/` is that version of video_clips."""
        return is_still_there(published, self.data)

    def track(self) -> None:
        """Bring data.dvc, DVC's cache and, for `push`, the remote to what was published. Raises HarError."""
        if self.mode in ("add", "push"):
            self._add(self.store.latest("video_clips"))
        if self.mode == "push":
            self.dvc.push(self.project, self.log)

    def _add(self, published: Artifact) -> None:
        version = published.record.data_version
        whole = self.dvc.tracked_dataset(self.project) is not None
        if self.dvc.tracked_version(self.project) == version and whole and not self.rebuilt:
            return
        self._refuse_retracking(version, published.record.metadata["replaces"])
        files = published_files(published)
        tracked = self.dvc.add(self.project, published.record.lineage["dataset"], files, self.log)
        if tracked != version:
            raise DatasetError(
                f"DVC gives data/ the version {tracked}, har_assets {version}: something writes to {self.data}, or "
                ".dvcignore leaves files of it out; mend that and materialize video_clips with force: true."
            )

    def _refuse_retracking(self, version: str, replaces: str) -> None:
        """A data.dvc that someone else has changed is not overwritten, unless it tracks the sample."""
        tracked = self.dvc.tracked_version(self.project)
        real = tracked_real(self.project, self.store, self.dvc)
        if real and tracked not in (version, replaces) and not self.force:
            raise DatasetError(
                f"data.dvc names version {str(tracked)[:8]}, which was not made here, and the archive gives version "
                f"{version[:8]}: set dvc: pull on video_clips to take the former, or force: true to track the latter."
            )

    def refuse_replacement(self) -> None:
        """A real data set is replaced by another only with force."""
        if self.force:
            return
        archive, data = self.archive, self.data
        tracked = tracked_real(self.project, self.store, self.dvc)
        coming = archive.record.lineage["dataset"] if archive else self.dvc.tracked_dataset(self.project)
        if (data / DATASET_FILE).is_file():
            self._refuse_other(Dataset.read(data), coming)
        elif data.exists() and any(data.iterdir()):
            raise DatasetError(
                f"{data} exists and was not made by har_assets: move it away and name it as the source, or set "
                "force: true."
            )
        if archive is not None and tracked not in (None, coming):
            raise DatasetError(
                f"data.dvc tracks the data set {tracked!r}, the archive is {coming!r}: set dvc: pull on video_clips to "
                "restore the former, or force: true to replace it."
            )

    def _refuse_other(self, present: Dataset, coming: str | None) -> None:
        if present.synthetic:
            return
        if present.name != coming:
            raise DatasetError(
                f"data/ holds the data set {present.name!r}, "
                f"{'the archive' if self.archive else 'what data.dvc names'} is {coming or UNNAMED!r}: set force: true "
                "on video_clips to replace it, or materialize raw_archive from the source you mean."
            )
        published = self.store.find_latest("video_clips")
        before = published.record.metadata.get("source", "") if published else ""
        source = self.archive.record.metadata["source"] if self.archive else DVC
        if DVC not in (before, source) and before not in ("", source):
            raise DatasetError(
                f"data/ holds {present.name!r} from {before}, the archive of that name is now {source}: set "
                "force: true on video_clips to replace the one by the other."
            )


@contextmanager
def updating(update: DataUpdate) -> Iterator[DataUpdate]:
    """Lock `data/`, mend what a killed run has left of it, and choose between the archive and DVC.

    Raises:
        HarError: there is no such mode, no archive, no data.dvc to restore by, or a real data set would be replaced.
    """
    if update.mode not in DVC_MODES:
        raise HarError(f"There is no dvc mode {update.mode!r}: choose {', '.join(DVC_MODES)}.")
    with locked(update.data, update.log):
        recover_data(update.data, update.log)
        if update.mode != "pull":
            archive = update.store.latest("raw_archive")
            update.archive = None if archive.record.metadata["source"] == DVC else archive
        if update.archive is None:
            tracked_version(update.project, update.dvc)
        update.refuse_replacement()
        yield update


def unpack(archive: Artifact, staging: Path, workers: int, log: Log) -> tuple[str, ...]:
    """Fill an empty folder from a published raw_archive; return sentences about what was left out. Raises HarError."""
    from har_assets.dataset.archive import extract_split_lists, extract_videos
    from har_assets.dataset.lists import listed_classes, replace_lists

    figures, lineage = archive.record.metadata, archive.record.lineage
    code_page = figures.get("names_code_page", "")
    lists = staging / SPLITS
    if figures["split_lists"]:
        extract_split_lists(archive.folder / figures["split_lists"], lists, code_page=code_page, log=log)
    report = extract_videos(
        archive.folder / figures["archive"],  # an absolute path stays as it is
        staging / VIDEOS,
        workers=workers or None,
        code_page=code_page,
        label=figures.get("label", "auto"),
        lists=lists if lists.is_dir() else None,
        log=log,
    )
    if report.rows:
        replace_lists(lists, report.rows, by_folders=report.by_folders)
    listed = listed_classes(lists) if figures["split_lists"] else ()
    Dataset.of(
        lineage["dataset"], synthetic=lineage["synthetic"], found=report.classes, listed=listed, clips=report.videos
    ).write(staging)
    for path in staging.rglob("*"):
        if path.is_file():
            path.chmod(0o444)  # a hard link shares its bytes with DVC's cache
    return report.notes


def data_here(project: Path, store: Store, *, on_cluster: bool) -> Path:
    """`data/` of this machine. On a node of a cluster it is first brought to what video_clips published.

    There it is a copy, made where a step first needs it: from raw_archive, else by DVC. Raises HarError.
    """
    data = project / "data"
    if not on_cluster:
        return data
    published = store.latest("video_clips")
    with locked(data, logger.info):
        recover_data(data, logger.info)
        if is_still_there(published, data):
            return data
        version = published.record.data_version
        logger.info("Restoring version %s of data/ on this node.", version[:8])
        with new_data(data) as staging:
            _fill_node(staging, project, store.find_latest("raw_archive"))
            if (found := version_of(files_of(staging))) != version:
                raise DatasetError(
                    f"The source gives this node the version {found[:8]} of data/, and video_clips published "
                    f"{version[:8]}: materialize video_clips again, with all assets after it."
                )
    return data


def _fill_node(staging: Path, project: Path, archive: Artifact | None) -> None:
    if archive is None or archive.record.metadata["source"] == DVC:
        DvcRepository().restore(project, staging, logger.info)
        return
    if not (archive.folder / archive.record.metadata["archive"]).exists():
        raise DatasetError(
            f"{archive.record.metadata['archive']} is not on this node: put it there under the same path, "
            "or on a disk that all nodes share."
        )
    unpack(archive, staging, 0, logger.info)
