"""Builds of products without Dagster: published inputs in a temporary folder."""

import shutil
from pathlib import Path
from typing import Any

from har_assets.store.product import Build
from har_assets.store.record import Artifact, FolderArtifact, Record, describe_files
from har_assets.tracking.run_log import RunLog

LINEAGE = {"dataset": "tiny", "synthetic": True, "data_version": "v1", "split": 1}


def published(folder: Path, asset: str, files: dict[str, Path], **fields: Any) -> Artifact:
    """A version of an asset that holds copies of files, or of the content of folders; `fields` are its record's."""
    here = folder / asset
    here.mkdir(parents=True)
    for name, source in files.items():
        if source.is_dir():
            shutil.copytree(source, here / name, dirs_exist_ok=True)
        else:
            shutil.copy(source, here / name)
    facts: dict[str, Any] = {
        "asset": asset,
        "key": asset.ljust(64, "0"),
        "data_version": f"{asset} 1",
        "files": describe_files(here),
        "headline": f"{asset} of the test",
        "lineage": LINEAGE,
        "metadata": {},
        "checks": {},
        "inputs": {},
        "config": {},
        "seconds": 0.0,
    }
    return FolderArtifact(here, Record(**{**facts, **fields}))


def build_of(folder: Path, *inputs: Artifact) -> Build:
    """A build in an empty folder with those inputs, without MLflow."""
    staging = folder / "staging"
    staging.mkdir(parents=True)
    return Build(staging, {artifact.record.asset: artifact for artifact in inputs}, folder / "work", RunLog(None))


def data_of(folder: Path, tiny_cache: Path) -> list[Artifact]:
    """frame_cache and the three manifests."""
    manifests = [
        published(folder, f"{role}_manifest", {f"{role}.csv": tiny_cache / f"{role}.csv"})
        for role in ("train", "val", "test")
    ]
    return [published(folder, "frame_cache", {".": tiny_cache / "cache"}, metadata={"quarantine": []}), *manifests]
