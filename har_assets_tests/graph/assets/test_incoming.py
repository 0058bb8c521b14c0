"""incoming_video_predictions and its sensors on real files, in this process, with Dagster's database on disk."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster import DagsterInstance

from har_assets.graph.assets.incoming import NAME, incoming_video_predictions
from har_assets.graph.resources.incoming import IncomingVideos
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.sensors.incoming import PARTITIONS, new_model_sensor, new_video_sensor
from har_assets.incoming.folder import partition_key
from har_assets.incoming.results import Results
from har_assets.model.spec import Provenance
from har_assets.system.files import sha256_of
from har_assets_tests.incoming.server import current, instance_of, publish_model, results_of, table_of
from har_assets_tests.project import Project
from har_assets_tests.videos import write_video


def make_video(path: Path, seed: int, frames: int = 12) -> Path:
    return write_video(path, np.random.default_rng(seed).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8))


@dataclass
class Here:
    """The sensors and the asset, driven as the daemon drives them."""

    project: Project
    instance: DagsterInstance
    suffixes: list[str] = field(default_factory=list)
    cursors: dict[str, str | None] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.project.folder / "incoming"

    @property
    def resources(self) -> dict[str, Any]:
        return {
            "store": ArtifactStore(project=str(self.project.folder)),
            "incoming": IncomingVideos(suffixes=self.suffixes, still_seconds=0, videos_a_run=50),
            "mlflow": MlflowTracking(tracking_uri=""),
        }

    def look(self, sensor: dg.SensorDefinition = new_video_sensor) -> Any:
        """One tick, its partitions added and taken away; its run is not started."""
        used = {name: self.resources[name] for name in ("store", "incoming")}
        context = dg.build_sensor_context(self.instance, cursor=self.cursors.get(sensor.name), resources=used)
        result = sensor.evaluate_tick(context)
        self.cursors[sensor.name] = result.cursor or self.cursors.get(sensor.name)
        for request in result.dynamic_partitions_requests or []:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(PARTITIONS, request.partition_keys)
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(PARTITIONS, key)
        return result

    def predict(self, request: dg.RunRequest, **config: Any) -> dg.ExecuteInProcessResult:
        """Run what a tick asked for."""
        return dg.materialize(
            [dg.AssetSpec("onnx_model"), incoming_video_predictions],
            instance=self.instance,
            resources=self.resources,
            run_config={"ops": {NAME: {"config": {"runtime": "onnxruntime_cpu", **config}}}},
            tags={**request.tags, "dagster/run_key": request.run_key or ""},
            selection=[NAME],
            raise_on_error=False,
        )

    def go(self, sensor: dg.SensorDefinition = new_video_sensor) -> dg.ExecuteInProcessResult | None:
        """A tick and its run."""
        requests = self.look(sensor).run_requests
        return self.predict(requests[0]) if requests else None

    def shown(self, key: str) -> dict[str, Any]:
        """Metadata of the latest materialization of a partition."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(NAME), asset_partitions=[key]), limit=1
        ).records
        assert records
        assert records[0].asset_materialization
        return {name: value.value for name, value in records[0].asset_materialization.metadata.items()}

    def answers(self) -> None:
        """Every file has one current result, of what is in it now."""
        found = current(self.project)
        for path in self.folder.rglob("*"):
            if path.is_file():
                name = os.fsencode(path.relative_to(self.folder)).decode("utf-8", "backslashreplace")
                assert found[name]["content_sha256"] == sha256_of(path), name
                assert bool(found[name]["label"]) != bool(found[name]["reason"]), name


@pytest.fixture
def here(tmp_path: Path, tiny_onnx: Path) -> Iterator[Here]:
    project = Project.make(tmp_path / "project")
    (project.folder / "incoming").mkdir()
    publish_model(project, tiny_onnx)
    with instance_of(project) as instance:
        yield Here(project, instance)


def test_a_video_is_predicted_once_and_shown(here: Here) -> None:
    make_video(here.folder / "a b.avi", 0)
    make_video(here.folder / "c.avi", 1)
    result = here.go()
    assert result
    assert result.success
    here.answers()
    key = partition_key(b"a b.avi")
    shown = here.shown(key)
    row = current(here.project)["a b.avi"]
    assert shown["answer"] == f"{row['label']} ({float(row['score']):.3f})"
    assert shown["contact_sheet"].startswith("![frames](data:image/jpeg;base64,")
    assert len(shown["contact_sheet"]) < 30_000
    assert shown["model"] == dg.AssetKey("onnx_model")
    assert shown["model_version"] == str(here.project.latest("onnx_model").folder)
    written = json.loads(Path(shown["result"]).read_text())
    assert written["spec"]["labels"] == ["jump", "sit", "stand"]
    assert written["model"]["sha256"] == row["model_sha256"]
    assert [answer["label"] for answer in written["top"]] == [row["label"], row["label_2"], row["label_3"]]
    assert written["frames"] == 12
    assert written["seconds"]["decode"] > 0
    assert written["runtime"].startswith("ONNX Runtime")
    before = [row["predicted"] for row in table_of(here.project)]
    assert here.go() is None

    # Asked for once more, and under another name: what is known is taken.
    here.cursors.clear()
    shutil.copy(here.folder / "c.avi", here.folder / "copy of c.avi")
    (here.folder / "a b.avi").rename(here.folder / "renamed.avi")
    result = here.go()
    assert result
    assert result.success
    here.answers()
    assert {row["predicted"] for row in table_of(here.project)} == set(before)
    assert here.shown(partition_key(b"renamed.avi"))["known_before"] is True
    assert key not in here.instance.get_dynamic_partitions(PARTITIONS)


def test_equal_files_of_one_run_are_predicted_once(here: Here) -> None:
    make_video(here.folder / "one.avi", 0)
    shutil.copy(here.folder / "one.avi", here.folder / "two.avi")
    result = here.go()
    assert result
    assert result.success
    here.answers()
    first, second = results_of(here.project)
    assert first["predicted"][:-10] == second["predicted"][:-10]
    assert first["seconds"] == second["seconds"]  # of one and the same decoding


def test_awkward_files_get_a_result_or_a_reason(here: Here, shared_data: Path) -> None:
    awkward = sorted((shared_data / "awkward").iterdir())
    for path in awkward:
        shutil.copy(path, here.folder / path.name)
    os.symlink(here.folder / awkward[0].name, here.folder / "no_video.mp3.lnk")
    here.suffixes = sorted({path.suffix for path in awkward})
    result = here.go()
    assert result
    assert result.success
    (here.folder / "no_video.mp3.lnk").unlink()
    here.answers()
    found = current(here.project)
    assert set(found) == {path.name for path in awkward}
    reasons = {name: row["reason"] for name, row in found.items() if row["reason"]}
    assert reasons["made_zero_bytes.avi"] == "the file is empty (0 bytes)"
    assert "no video stream" in reasons["torchcodec_audio_only.mp3"]
    assert found["torchcodec_av1.mkv"]["label"]
    assert here.go() is None, "a bad video is not asked for again"
    assert here.shown(partition_key(b"made_zero_bytes.avi"))["answer"] == "none: the file is empty (0 bytes)"


def test_names_of_every_kind(here: Here) -> None:
    names = [
        b"#1;[x] & (y)!@~+.avi",
        "Straße 一 🎬.avi".encode(),
        b"latin\xe9.avi",
        b"two\nlines.avi",
        b"-rf.avi",
        b'a,"b".avi',
        b"..avi",
        b"x" * 200 + b".avi",
        b"$(id).avi",
        b"day 1/CON.avi",
        b"%2e%2e.avi",
    ]
    for seed, name in enumerate(names):
        path = here.folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        shutil.copy(make_video(here.project.folder / "plain.avi", seed), path)
    result = here.go()
    assert result
    assert result.success
    found = current(here.project)
    assert len(found) == len(names) - 1  # `..avi` is a hidden file
    assert found["latin\\xe9.avi"]["reason"] == "the file name is not valid UTF-8: rename the file"
    assert [name for name, row in found.items() if not row["label"]] == ["latin\\xe9.avi"]
    here.suffixes = [".avi"]
    assert here.go() is None


def test_deleted_before_the_run_and_replaced_before_the_run(here: Here) -> None:
    for seed in range(4):
        make_video(here.folder / f"{seed}.avi", seed)
    request = here.look().run_requests[0]
    (here.folder / "0.avi").unlink()
    (here.folder / "3.avi").unlink()
    make_video(here.folder / "1.avi", 9)
    result = here.predict(request)
    assert result.success
    here.answers()
    assert set(current(here.project)) == {"1.avi", "2.avi"}
    observations = [event for event in result.all_events if event.event_type_value == "ASSET_OBSERVATION"]
    assert {event.partition for event in observations} == {partition_key(b"0.avi"), partition_key(b"3.avi")}
    again = here.go()  # 1.avi is another file than the one that was asked for
    assert again
    assert again.success
    assert len(results_of(here.project)) == 2, "its content was predicted already"
    assert here.instance.get_dynamic_partitions(PARTITIONS) == [partition_key(b"2.avi"), partition_key(b"1.avi")]
    assert here.go() is None


def test_a_changed_file_in_the_midst_of_others_is_asked_for_alone(here: Here) -> None:
    for seed in range(5):
        make_video(here.folder / f"{seed}.avi", seed)
    here.go()
    make_video(here.folder / "1.avi", 11)
    make_video(here.folder / "3.avi", 13)
    result = here.go()
    assert result
    assert result.success
    keys = {event.partition for event in result.get_asset_materialization_events()}
    assert keys == {partition_key(b"1.avi"), partition_key(b"3.avi")}
    here.answers()
    assert len(table_of(here.project)) == 7  # the results of the old contents stay


def test_the_former_content_is_current_again_when_it_is_back(here: Here) -> None:
    first = make_video(here.project.folder / "first.avi", 0)
    for content in (first, make_video(here.project.folder / "second.avi", 1), first):
        shutil.copy(content, here.folder / "a.avi")
        assert here.go()
        here.answers()
    assert len(table_of(here.project)) == 2


def test_a_video_that_took_too_long_is_tried_again(here: Here) -> None:
    make_video(here.folder / "a.avi", 0)
    request = here.look().run_requests[0]
    assert here.predict(request).success
    (path,) = (here.project.folder / "artifacts" / NAME).glob("*/*/*.json")
    late = {"top": [], "reason": "decoding took longer than the limit of 120 s"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **late}))
    assert here.predict(request).success
    (row,) = table_of(here.project)
    assert (bool(row["label"]), row["reason"]) == (True, "")


def test_a_file_that_cannot_be_read_gets_its_reason_and_later_its_result(here: Here) -> None:
    path = here.folder / "secret.avi"
    path.symlink_to("/proc/self/mem")  # as a disk that fails: it can be opened and not be read
    result = here.go()
    assert result
    assert result.success
    row = current(here.project)["secret.avi"]
    assert (row["reason"], row["label"]) == ("the file cannot be read: Input/output error", "")
    path.unlink()
    make_video(path, 0)
    here.go()
    here.answers()
    assert len(table_of(here.project)) == 1


def test_a_tick_says_what_is_no_video(here: Here) -> None:
    for name in ("notes.txt", "Thumbs.db"):
        (here.folder / name).write_bytes(b"x")
    assert here.look().skip_message == (
        "0 videos in the folder. 1 files that are no videos were left out: 1 .txt. "
        "1 files or folders that systems keep beside videos were left out: 1 Thumbs.db."
    )


def test_a_missing_model_and_a_missing_folder_are_said(here: Here) -> None:
    shutil.rmtree(here.folder)
    assert "make it, or name another one in HAR_INCOMING" in here.look().skip_message
    here.folder.mkdir()
    make_video(here.folder / "a.avi", 0)
    shutil.rmtree(here.project.folder / "artifacts/onnx_model")
    assert "no onnx_model yet" in here.look().skip_message


def test_a_failed_run_is_repeated_for_the_same_range(here: Here) -> None:
    for seed in range(3):
        make_video(here.folder / f"{seed}.avi", seed)
    request = here.look().run_requests[0]
    failed = here.predict(request, windows=0)
    assert not failed.success
    assert "choose 1 or more" in str(failed.get_step_failure_events()[0].step_failure_data.user_failure_data)
    again = here.look().run_requests[0]
    assert again.run_key != request.run_key
    assert again.tags == request.tags
    assert here.predict(again).success
    here.answers()


def test_a_new_model_predicts_all_videos_again_in_pages_and_the_old_results_stay(
    here: Here, tiny_onnx: Path, tmp_path: Path
) -> None:
    from har_assets.export.onnx import read_onnx, write_onnx

    for seed in range(3):
        make_video(here.folder / f"{seed}.avi", seed)
    here.go()
    first = here.project.latest("onnx_model")
    proto, spec, _ = read_onnx(tiny_onnx)
    write_onnx(proto, spec, Provenance(dataset="another"), tmp_path / "other.onnx")
    second = publish_model(here.project, tmp_path / "other.onnx")
    assert here.go() is None, "the other sensor knows nothing of models"
    while (result := here.go(new_model_sensor)) is not None:
        assert result.success
    rows = table_of(here.project)
    assert sorted(row["model_version"] for row in rows) == sorted([first.folder.name, second.folder.name] * 3)
    assert here.shown(partition_key(b"1.avi"))["model_version"] == str(second.folder)
    done = here.look(new_model_sensor)
    assert done.run_requests == []
    assert "All videos have been predicted" in done.skip_message
    assert len(results_of(here.project)) == 6


def test_pages_of_a_new_model_are_repeated_when_their_run_fails(here: Here) -> None:
    for seed in range(2):
        make_video(here.folder / f"{seed}.avi", seed)
    here.go()
    request = here.look(new_model_sensor).run_requests[0]
    assert here.look(new_model_sensor).run_requests[0].run_key == request.run_key, "it was never launched"
    here.predict(request, windows=0)
    again = here.look(new_model_sensor).run_requests[0]
    assert again.run_key != request.run_key
    assert here.predict(again).success
    assert here.go(new_model_sensor) is None


def test_equals_of_a_video_that_is_replaced_while_it_is_read_are_predicted(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_video(here.folder / "0.avi", 0)
    for name in ("1.avi", "2.avi"):
        shutil.copy(first, here.folder / name)
    hashed: list[str] = []

    def find(self: Results, content: str, partition: str) -> dict[str, Any] | None:
        hashed.append(partition)
        if len(hashed) == 1:  # it has been hashed and will be decoded next
            make_video(here.folder / "new.avi", 1).replace(first)
        return None

    monkeypatch.setattr(Results, "find", find)
    request = here.look().run_requests[0]
    assert here.predict(request).success
    assert set(current(here.project)) == {"1.avi", "2.avi"}
    monkeypatch.undo()
    here.go()
    here.answers()


def test_partitions_without_a_file_leave_when_everything_is_looked_at_again(here: Here) -> None:
    here.instance.add_dynamic_partitions(PARTITIONS, ["typed-by-hand"])
    make_video(here.folder / "a.avi", 0)
    here.go()
    assert here.instance.get_dynamic_partitions(PARTITIONS) == [partition_key(b"a.avi")]


@pytest.fixture
def small_disk(here: Here) -> Iterator[Path]:
    """The folder of the results on a disk of a megabyte."""
    folder = here.project.folder / "artifacts" / NAME
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_next_run_goes_on(here: Here, small_disk: Path) -> None:
    for seed in range(30):
        make_video(here.folder / f"{seed}.avi", seed)
    request = here.look().run_requests[0]
    with (small_disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(shutil.disk_usage(small_disk).free - 100_000))  # room for some, not for all
    failed = here.predict(request)
    assert not failed.success
    (failure,) = failed.get_step_failure_events()
    assert "No space left on device" in str(failure.step_failure_data.user_failure_data)
    known = results_of(here.project)  # none of them is half a file
    assert 0 < len(known) < 30
    assert all(result["top"] for result in known)
    (small_disk / "ballast").unlink()
    assert here.predict(here.look().run_requests[0]).success
    here.answers()
    assert len(table_of(here.project)) == 30
    again = {result["partition"]: result["predicted"] for result in results_of(here.project)}
    assert all(again[result["partition"]] == result["predicted"] for result in known), "predicted once more"
    assert not [path for path in small_disk.rglob(".*.[0-9]*") if path.is_file()]


def test_a_film_gets_a_timeline_and_does_not_hold_up_the_others(here: Here) -> None:
    make_video(here.folder / "film.avi", 0, frames=300)  # ten seconds
    make_video(here.folder / "clip.avi", 1)
    shutil.copy(here.folder / "film.avi", here.folder / "same film.avi")
    broken = make_video(here.folder / "broken film.avi", 2, frames=300)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    request = here.look().run_requests[0]
    result = here.predict(request, film_from_s=5.0)
    assert result.success
    here.answers()
    order = [event.partition for event in result.get_asset_materialization_events()]
    assert order[0] == partition_key(b"clip.avi")
    by_name = {written["video"]: written for written in results_of(here.project)}
    film = by_name["film.avi"]
    assert film["timeline"]["duration_s"] == pytest.approx(10, abs=0.1)
    assert film["frames"] == 300
    assert len(film["top"]) == 3
    assert by_name["clip.avi"]["timeline"] is None
    assert by_name["same film.avi"]["seconds"] == film["seconds"]
    assert 100 < by_name["broken film.avi"]["frames"] < 200
    assert current(here.project)["film.avi"]["segments"] == str(len(film["timeline"]["segments"]))
    shown = here.shown(partition_key(b"film.avi"))
    assert shown["contact_sheet"].startswith("![frames](data:image/jpeg;base64,")
    assert shown["segments"] == len(film["timeline"]["segments"])
