"""Products in a store as an asset would have published them, without the graph."""

import shutil
from pathlib import Path
from typing import Any

from har_assets.store.protocol import Store
from har_assets.store.record import Artifact, Record, describe_files


def make_record(asset: str = "onnx_model", key: str = "a" * 64, **fields: Any) -> Record:
    """What an asset would say of a version, with nothing known but its name, its key and the given fields of Record."""
    rest = ("files", "lineage", "metadata", "checks", "inputs", "config")
    known: dict[str, Any] = {"data_version": key, "headline": f"a {asset} of a test", "seconds": 0.0}
    return Record(asset=asset, key=key, **{**{name: {} for name in rest}, **known, **fields})


def publish(store: Store, asset: str, files: dict[str, Path]) -> Artifact:
    """The first version of an asset with copies of these files, by their names in it."""
    with store.staging(asset) as folder:
        for name, source in files.items():
            shutil.copy(source, folder / name)
        return store.publish(folder, make_record(asset, data_version=asset, files=describe_files(folder)))
