"""Products in a store as an asset would have published them, without the graph."""

import shutil
from pathlib import Path
from typing import Any

from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import Artifact, Record, describe_files


def make_record(asset: str, **fields: Any) -> Record:
    """What an asset would say of a version, with nothing known but its name and the given fields of Record."""
    rest = ("files", "lineage", "metadata", "checks", "inputs", "config")
    known: dict[str, Any] = {"key": f"{asset:0<64}", "data_version": asset, "headline": f"a {asset} of a test"}
    return Record(asset=asset, **{**{name: {} for name in rest}, **known, "seconds": 0.0, **fields})


def publish(store: ArtifactFolder, asset: str, files: dict[str, Path]) -> Artifact:
    """The first version of an asset with copies of these files, by their names in it."""
    with store.staging(asset) as folder:
        for name, source in files.items():
            shutil.copy(source, folder / name)
        return store.publish(folder, make_record(asset, files=describe_files(folder)))
