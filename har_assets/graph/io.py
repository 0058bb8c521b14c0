"""What a notebook gets of each asset: `defs.load_asset_value("test_predictions")`."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from har_assets.dataset.folder import VIDEOS
from har_assets.errors import HarError, MissingArtifactError
from har_assets.graph.asset import MAIN
from har_assets.graph.assets.data_dvc import DATA_DVC
from har_assets.graph.assets.incoming import NAME as INCOMING
from har_assets.graph.assets.splits import SPLIT_NUMBERS, SplitStore
from har_assets.graph.failures import SentenceFailure
from har_assets.graph.resources.store import ArtifactStore
from har_assets.incoming.results import PREDICTIONS
from har_assets.store.record import Artifact
from har_assets.system.tables import Table

if TYPE_CHECKING:
    import pandas as pd

SPLITS = "split_evaluation"


class ProductReader(dg.IOManager):
    """Reads the latest product of an asset and writes nothing: each asset publishes its product itself."""

    def load_input(self, context: dg.InputContext) -> "pd.DataFrame | Path":
        """The table that an asset publishes, else the path of its main file or of its folder.

        The table of split_evaluation is that of the partition, a split; incoming_video_predictions has the rows of the
        partition, a video, and all rows where none is named. video_clips is the folder of videos, data_dvc its file.

        Raises:
            MissingArtifactError: there is no such product; its sentence names the command that makes it.
            HarError: no split was named, or the product holds no such file.
        """
        name = context.asset_key.to_user_string()
        store: ArtifactStore = context.resources.store
        partition = context.partition_key if context.has_partition_key else ""
        if name == DATA_DVC:
            return _there(store.project_folder / "data.dvc", "video_clips")
        if name == INCOMING:
            return _incoming(store.folder.root / INCOMING / PREDICTIONS.file, partition)
        if name == SPLITS:
            return _value(_tested_split(store, partition), SPLITS)
        product = store.latest(name)
        if name == "video_clips":
            return _there(store.project_folder / "data" / VIDEOS, name)
        return _value(product, name)

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Refuse to keep a value."""
        raise SentenceFailure(
            f"{context.step_key} returned a value, which nothing keeps: publish a product and return what `publish` "
            "returns, or name another io_manager_key."
        )


@dg.io_manager(required_resource_keys={"store"}, description="Reads published products for notebooks; writes nothing.")
def product_reader() -> ProductReader:
    """The reader, on the resource `store`."""
    return ProductReader()


def _value(product: Artifact, asset: str) -> "pd.DataFrame | Path":
    main = MAIN.get(asset)
    if isinstance(main, Table):
        return main.read(product.file(main.file))
    if main is None:
        return product.folder
    if not product.record.files:
        raise HarError(f"{asset} is empty ({product.record.headline}): materialize it with another configuration.")
    return product.file(main)


def _there(path: Path, asset: str) -> Path:
    if not path.exists():
        raise MissingArtifactError(
            f"There is no {path}: run `dagster asset materialize -m har_assets --select '+key:{asset}'`."
        )
    return path


def _tested_split(store: ArtifactStore, split: str) -> Artifact:
    if split not in SPLIT_NUMBERS:
        raise HarError(f"{SPLITS} has a table for each split: name one, `partition_key='1'`, '2' or '3'.")
    found = SplitStore.of(store, split).folder.find_latest("test_predictions")
    if found is None:
        raise _missing(SPLITS, split)
    return found


def _incoming(path: Path, partition: str) -> "pd.DataFrame":
    table = PREDICTIONS.read(path) if path.is_file() else None
    if table is not None and partition:
        table = table[table["partition"] == partition].reset_index(drop=True)
    if table is None or (partition and table.empty):
        raise _missing(INCOMING, partition or "KEY")
    return table


def _missing(asset: str, partition: str) -> MissingArtifactError:
    return MissingArtifactError(
        f"{asset} has not been materialized for {partition}: run "
        f"`dagster asset materialize -m har_assets --select {asset} --partition {partition}`."
    )
