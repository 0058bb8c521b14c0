"""Products in a notebook: `defs.load_asset_value` on a real project, in a folder and in a bucket."""

import csv
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from har_assets import defs
from har_assets.errors import DatasetError, HarError, MissingArtifactError
from har_assets.graph.asset import MAIN
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.stage import STAGES
from har_assets.incoming.results import COLUMNS, PREDICTIONS
from har_assets.model.files import ONNX
from har_assets.runtime.tables import BENCHMARK_COLUMNS
from har_assets.store.opening import open_store
from har_assets.store.record import describe_files
from har_assets.system.tables import Table
from har_assets_tests.incoming.server import publish_model
from har_assets_tests.project import REPOSITORY, Project, execute_here, make_own_videos, materialize_here
from har_assets_tests.published import make_record, publish

if TYPE_CHECKING:
    import pandas as pd

    from har_assets_tests.s3_server import S3Server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path, tiny_onnx: Path) -> Project:
    """Its class_index and test_predictions are materialized, one class is called NA; the rest is published by hand."""
    project = Project.make(tmp_path_factory.mktemp("notebook") / "project")
    videos = make_own_videos(project.folder / "videos", 3)
    (videos / "still").rename(videos / "NA")
    config: dict[str, dict[str, Any]] = {"raw_archive": {"source": str(videos)}, "video_clips": {"dvc": "off"}}
    assert materialize_here(project, "+key:class_index", config) == []
    publish(project.store, "frame_cache", {path.name: path for path in (tiny_cache / "cache").iterdir()})
    publish(project.store, "test_manifest", {"test.csv": tiny_cache / "test.csv"})
    publish_model(project, tiny_onnx)
    assert materialize_here(project, "key:test_predictions", {}) == []
    return project


@pytest.fixture
def project(made: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(made.folder)
    return made


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_the_lines_of_the_readme_give_the_table_with_its_types(project: Project) -> None:
    (code,) = re.findall(
        r"```python\n(from har_assets import defs\n.*?)```", (REPOSITORY / "README.md").read_text(), re.S
    )
    before = state(project.folder)
    names: dict[str, Any] = {}
    exec(code, names)
    assert state(project.folder) == before
    table: pd.DataFrame = names["predictions"]
    with project.latest("test_predictions").file("test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert table["clip"].tolist() == [row["clip"] for row in rows]
    assert table["correct"].tolist() == [row["correct"] == "True" for row in rows]
    assert table["correct"].dtype == bool
    assert table["score_1"].tolist() == [float(row["score_1"]) for row in rows]
    assert table["score_5"].isna().all()  # there are three classes
    assert (table["label_5"] == "").all()
    assert len(names["wrong"]) == sum(row["correct"] == "False" for row in rows) > 0


def test_the_declared_columns_are_those_of_the_file_and_its_rows_are_counted(made: Project) -> None:
    names = ("train_manifest", "val_manifest", "test_predictions", "class_index")
    for name in names:
        (event,) = execute_here(made, f"key:{name}", {}).get_asset_materialization_events()
        shown = defs.resolve_assets_def(name).metadata_by_key[dg.AssetKey(name)]["dagster/column_schema"]
        table = MAIN[name]
        assert isinstance(table, Table)
        with made.latest(name).file(table.file).open(newline="") as file:
            header, *rows = csv.reader(file)
        assert [column.name for column in shown.columns] == header, name
        assert event.materialization.metadata["dagster/row_count"].value == len(rows), name


def test_the_declared_columns_of_a_benchmark_are_those_of_its_rows_and_of_the_machine() -> None:
    from har_assets.runtime.benchmark import PACKAGES, Row, describe_machine

    machine = [name for name in describe_machine() if name not in PACKAGES]
    assert list(BENCHMARK_COLUMNS) == [*(field.name for field in dataclasses.fields(Row)), *machine]


def test_every_asset_has_owners_and_leads_to_its_function() -> None:
    for name in STAGES:
        spec = defs.resolve_assets_def(name).get_asset_spec(dg.AssetKey(name))
        assert spec.owners, name
        found = spec.metadata["dagster/code_references"]
        (reference,) = found.code_references
        assert isinstance(reference, dg.LocalFileCodeReference)
        assert reference.line_number
        lines = Path(reference.file_path).read_text().splitlines()[reference.line_number - 1 :]
        function = "manifests" if name.endswith("_manifest") else name
        assert next(line for line in lines if line.startswith("def ")).startswith(f"def {function}("), name


def test_a_class_called_na_is_a_text(project: Project) -> None:
    table = defs.load_asset_value("class_index")
    assert table.to_dict("list") == {"index": [0, 1, 2], "class": ["NA", "down", "right"]}  # type: ignore[attr-defined]


def test_what_is_no_table_is_a_path(project: Project, tmp_path: Path) -> None:
    assert defs.load_asset_value("onnx_model") == project.latest("onnx_model").folder / ONNX
    frames = defs.load_asset_value("frame_cache")
    assert isinstance(frames, Path)
    assert (frames / "index.csv").is_file()
    videos = defs.load_asset_value("video_clips")
    assert isinstance(videos, Path)
    assert {path.name for path in videos.iterdir()} == {"NA", "down", "right"}
    publish(project.store, "pretrained_weights", {})
    with pytest.raises(
        HarError, match=r"pretrained_weights is empty \(a pretrained_weights of a test\): materialize it"
    ):
        defs.load_asset_value("pretrained_weights")


@pytest.mark.parametrize("name", [*STAGES, "data_dvc"])
def test_what_is_not_there_is_a_sentence_with_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    partition = "2" if name == "split_evaluation" else None
    with pytest.raises(MissingArtifactError) as caught:
        defs.load_asset_value(name, partition_key=partition)
    command = {
        "data_dvc": "'+key:video_clips'",
        "split_evaluation": "split_evaluation --partition 2",
        "incoming_video_predictions": "incoming_video_predictions --partition KEY",
    }.get(name, f"'+key:{name}'")
    assert f"run `dagster asset materialize -m har_assets --select {command}`." in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_split_is_named_and_found(project: Project) -> None:
    with pytest.raises(HarError, match="has a table for each split: name one, `partition_key='1'`"):
        defs.load_asset_value("split_evaluation")
    source = project.latest("test_predictions").file("test_predictions.csv")
    own = project.store.below("split_evaluation/2")
    with own.staging("test_predictions") as folder:
        shutil.copy(source, folder)
        own.publish(folder, make_record("test_predictions", files=describe_files(folder)))
    found = defs.load_asset_value("split_evaluation", partition_key="2")
    assert found.equals(defs.load_asset_value("test_predictions"))  # type: ignore[attr-defined]


def test_a_new_video_is_a_partition_of_the_table(project: Project) -> None:
    home = project.folder / "artifacts" / "incoming_video_predictions"
    home.mkdir()
    rows = [
        {"partition": "a-1", "current": "false", "label": "NA", "score": "0.5", "frames": "9"},
        {
            "partition": "a-1",
            "current": "true",
            "label": "NA",
            "score": "0.75",
            "frames": "9",
            "segments": "2",
        },
        {"partition": "b-2", "current": "true", "reason": "no frame", "frames": "0"},
    ]
    with (home / PREDICTIONS.file).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    name = "incoming_video_predictions"
    assert len(defs.load_asset_value(name)) == 3  # type: ignore[arg-type]
    with dg.DagsterInstance.ephemeral() as instance:  # Dagster looks up there which videos there are
        instance.add_dynamic_partitions("incoming_videos", ["a-1", "c-3"])
        found: Any = defs.load_asset_value(name, partition_key="a-1", instance=instance)
        assert found[["label", "score", "current"]].to_numpy().tolist() == [["NA", 0.5, False], ["NA", 0.75, True]]
        assert found["segments"].isna().tolist() == [True, False]
        with pytest.raises(MissingArtifactError, match=f"for c-3: run .* --select {name} --partition c-3"):
            defs.load_asset_value(name, partition_key="c-3", instance=instance)


def test_a_damaged_table_is_a_sentence(project: Project, tmp_path: Path) -> None:
    table = MAIN["class_index"]
    assert isinstance(table, Table)
    for text, words in (("index,class\none,a\n", "is damaged"), ("index\n1\n", "lacks class"), ("", "is damaged")):
        path = tmp_path / "table.csv"
        path.write_text(text)
        with pytest.raises(DatasetError, match=rf"table\.csv {words}.*: materialize its asset again with force: true"):
            table.read(path)


def test_an_asset_that_returns_a_value_is_refused_in_words() -> None:
    @dg.asset
    def returns_a_table() -> list[int]:
        return [1]

    resources = {"io_manager": defs.resources["io_manager"], "store": ArtifactStore()}  # type: ignore[index]
    result = dg.materialize([returns_a_table], resources=resources, raise_on_error=False)
    (failure,) = result.get_step_failure_events()
    assert "returns_a_table returned a value, which nothing keeps" in str(failure.step_failure_data.error)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> "Iterator[S3Server]":
    pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")
    from s3fs import S3FileSystem

    from har_assets_tests.s3_server import s3_server

    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield server
        S3FileSystem.clear_instance_cache()


def test_a_bucket_gives_the_same_table_and_a_copy_of_a_file(
    made: Project, s3: "S3Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from har_assets_tests.s3_server import BUCKET

    address = f"s3://{BUCKET}/har"
    writer = open_store(address, tmp_path / "writer")
    for name in ("test_predictions", "onnx_model"):
        source = made.latest(name)
        with writer.staging(name) as folder:
            shutil.copytree(source.folder, folder, dirs_exist_ok=True)
            (folder / "artifact.json").unlink()
            writer.publish(folder, make_record(name, files=describe_files(folder)))
    objects = s3.client().list_objects_v2(Bucket=BUCKET)["Contents"]
    (tmp_path / "reader").mkdir()
    monkeypatch.chdir(tmp_path / "reader")
    monkeypatch.setenv("HAR_ARTIFACTS", address)
    table: Any = defs.load_asset_value("test_predictions")
    local = made.latest("test_predictions").file("test_predictions.csv")
    assert table["clip"].tolist() == [row["clip"] for row in csv.DictReader(local.read_text().splitlines())]
    model = defs.load_asset_value("onnx_model")
    assert isinstance(model, Path)
    assert model.read_bytes() == made.latest("onnx_model").file(ONNX).read_bytes()
    assert json.dumps(s3.client().list_objects_v2(Bucket=BUCKET)["Contents"], default=str) == json.dumps(
        objects, default=str
    )
