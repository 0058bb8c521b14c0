"""A run over new videos, without Dagster."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from har_assets.incoming.folder import LocalVideo, VideoFolder, Wanted
from har_assets.incoming.options import IncomingOptions
from har_assets.incoming.predict import Given, IncomingRun, LeftOut, Outcome, predict_film
from har_assets.incoming.results import Results
from har_assets.runtime import open_model
from har_assets.store.record import Artifact
from har_assets_tests.incoming.server import publish_model
from har_assets_tests.project import Project
from har_assets_tests.videos import write_video


def make_video(path: Path, seed: int, frames: int = 12) -> Path:
    return write_video(path, np.random.default_rng(seed).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8))


OPTIONS = IncomingOptions(
    runtime="onnxruntime_cpu", windows=2, batch=4, workers=1, timeout_s=60.0, film_from_s=5.0, film_timeout_s=60.0
)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Artifact:
    project = Project.make(tmp_path_factory.mktemp("project"))
    publish_model(project, tiny_onnx)
    return project.latest("onnx_model")


def run_of(
    tmp_path: Path, onnx: Artifact, videos: VideoFolder | None = None, *, force: bool = False, **options: Any
) -> IncomingRun:
    (name,) = (name for name in onnx.record.files if name.endswith(".onnx"))
    return IncomingRun(
        results=Results(tmp_path / "results", {"model": "tiny"}),
        onnx=onnx,
        file_name=name,
        precision="fp32",
        options=OPTIONS.model_copy(update=options),
        videos=videos or VideoFolder(tmp_path / "videos"),
        force=force,
    )


def outcomes_of(run: IncomingRun, *names: str, gone: str = "") -> dict[str, Outcome]:
    """What became of each video; the partition of a video is its name."""
    noted: list[Outcome] = []
    run.predict([(name, None if name == gone else name.encode()) for name in names], noted.append)
    found = {one.partition if isinstance(one, LeftOut) else one.fields["partition"]: one for one in noted}
    assert len(found) == len(noted) == len(names)
    return found


def test_every_video_gets_a_result_or_a_reason(tmp_path: Path, onnx: Artifact) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    make_video(folder / "one.avi", 0)
    shutil.copy(folder / "one.avi", folder / "same.avi")
    (folder / "broken.avi").write_bytes(b"RIFF")
    make_video(folder / "film.avi", 1, frames=200)
    run = run_of(tmp_path, onnx)
    names = ("film.avi", "one.avi", "same.avi", "broken.avi", "lost.avi", "gone.avi")
    found = outcomes_of(run, *names, gone="gone.avi")
    assert {name for name, one in found.items() if isinstance(one, LeftOut)} == {"lost.avi", "gone.avi"}
    results = {name: one for name, one in found.items() if isinstance(one, Given)}
    assert all(json.loads(one.path.read_text()) == one.fields for one in results.values())
    assert results["one.avi"].fields["top"] == results["same.avi"].fields["top"] != []
    assert results["one.avi"].fields["model"]["precision"] == "fp32"
    assert results["film.avi"].fields["timeline"]["segments"] is not None
    assert results["one.avi"].fields["timeline"] is None
    assert results["broken.avi"].fields["top"] == []
    assert "damaged" in results["broken.avi"].fields["reason"]
    assert run.counts == {"predicted": 3, "without a prediction": 1, "known before": 0, "gone or changing": 2}

    again = run_of(tmp_path, onnx)
    assert all(isinstance(one, Given) and one.known for one in outcomes_of(again, "film.avi", "one.avi").values())
    forced = run_of(tmp_path, onnx, force=True)
    assert not any(isinstance(one, Given) and one.known for one in outcomes_of(forced, "one.avi").values())


def test_a_model_is_not_opened_where_everything_is_known(tmp_path: Path, onnx: Artifact) -> None:
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "one.avi", 0)
    outcomes_of(run_of(tmp_path, onnx), "one.avi")
    run = run_of(tmp_path, onnx, runtime="no such runtime")
    (found,) = outcomes_of(run, "one.avi").values()
    assert isinstance(found, Given)
    assert found.known


class FewAtATime(VideoFolder):
    """As a bucket whose copies have room for one video."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.held: set[Path] = set()

    def read(self, wanted: Wanted) -> Iterator[tuple[str, bytes, LocalVideo]]:  # type: ignore[override]
        while wanted and not self.held:
            ((partition, name, video),) = super().read(type(wanted)([wanted.popleft()]))
            assert isinstance(video, LocalVideo)
            self.held.add(video.path)
            yield partition, name, video

    def release(self, video: LocalVideo) -> None:
        self.held.discard(video.path)


def test_videos_whose_copies_do_not_fit_together_are_all_predicted(tmp_path: Path, onnx: Artifact) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        make_video(folder / f"{number}.avi", number)
    videos = FewAtATime(folder)
    run = run_of(tmp_path, onnx, videos)
    outcomes_of(run, "0.avi", "1.avi", "2.avi")
    assert run.counts["predicted"] == 3
    assert videos.held == set()


def test_a_film_is_not_finished_for_nobody(tiny_onnx: Path, tmp_path: Path) -> None:
    film = make_video(tmp_path / "film.avi", 0, frames=300)

    def go_on() -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        predict_film(open_model(tiny_onnx, "onnxruntime_cpu"), film, 60, go_on)
