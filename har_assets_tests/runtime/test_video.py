import itertools
import multiprocessing.shared_memory
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from har_assets.errors import HarError, VideoError
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.runtime import open_model, video
from har_assets.runtime.predictor import Predictor, Scores
from har_assets.runtime.video import VideoFailure, VideoPrediction, predict_video, predict_videos, video_clips
from har_assets.runtime.windows import read_windows
from har_assets.video.decode import VideoReader, decode_video
from har_assets.video.sampling import Clips
from har_assets_tests.videos import write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Videos of 1 to 60 frames, no two alike."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    return [
        write_video(folder / f"{number:02d}.avi", rng.integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8))
        for number, frames in enumerate((60, 1, 3, 17, 8, 30, 5))
    ]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("windows", [1, 3])
def test_windows_are_those_of_the_one_rule(
    videos: list[Path], tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, stride: int, windows: int
) -> None:
    import dataclasses

    spec = dataclasses.replace(tiny_spec, frame_stride=stride)
    for path in videos:
        size = spec.decode_height, spec.decode_width
        decoded = decode_video(path, size=size, sampling=spec.sampling, resize=spec.resize)
        expected = video_clips(decoded.frames_THWC, spec, windows)
        found = read_windows(path, spec, windows)
        np.testing.assert_array_equal(found.clips_BCTHW, expected)
        assert (found.num_source_frames, found.note) == (decoded.num_source_frames, decoded.note)
        # Too long to be held: read a second time.
        with monkeypatch.context() as patch:
            patch.setattr("har_assets.runtime.windows.MAX_HELD_BYTES", 1)
            np.testing.assert_array_equal(read_windows(path, spec, windows).clips_BCTHW, expected)


def test_many_videos_are_predicted_as_one_by_one_and_in_order(
    videos: list[Path], tiny_onnx: Path, tmp_path: Path
) -> None:
    predictor = open_model(tiny_onnx, "onnxruntime_cpu")
    (tmp_path / "empty.avi").touch()
    paths = [videos[0], tmp_path / "empty.avi", *videos[1:], tmp_path / "none.avi", *videos]
    expected = {path: predict_video(predictor, path, windows=3, top=2) for path in videos}
    progress: list[int] = []
    for batch in (1, 7, 64):
        progress.clear()
        found = list(
            predict_videos(predictor, paths, windows=3, top=2, batch=batch, workers=2, done=lambda: progress.append(1))
        )
        assert [one.video for one in found] == [str(path) for path in paths]
        assert len(progress) == len(paths)
        assert [type(one) for one in found].count(VideoFailure) == 2
        assert isinstance(found[1], VideoFailure)
        assert "empty" in found[1].reason
        for path, one in zip(paths, found, strict=True):
            if isinstance(one, VideoPrediction):
                assert one.labels == expected[path].labels
                np.testing.assert_allclose(one.scores, expected[path].scores, atol=1e-5)
                assert (one.frames, one.windows) == (expected[path].frames, 3)


def test_nothing_at_all_is_no_prediction(tiny_onnx: Path) -> None:
    assert list(predict_videos(open_model(tiny_onnx, "onnxruntime_cpu"), [])) == []


class Slow(Predictor):
    """Counts what it is asked; takes its time, or raises."""

    name = runtime = "slow"

    def __init__(self, spec: ModelSpec, seconds: float = 0.0, error: Exception | None = None) -> None:
        super().__init__(spec, Provenance())
        self.seconds, self.error = seconds, error
        self.threads: set[int] = set()
        self.batches: list[int] = []

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        self.threads.add(threading.get_ident())
        self.batches.append(len(clips_BCTHW))
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return np.full((len(clips_BCTHW), self.spec.num_classes), 1 / self.spec.num_classes, np.float32)


def test_paths_are_taken_as_they_are_needed_and_leave_nothing_behind(
    videos: list[Path], tiny_spec: ModelSpec, left_blocks: Callable[[], list[str]]
) -> None:
    taken = 0

    def endless() -> itertools.count:  # type: ignore[type-arg]
        nonlocal taken
        for path in itertools.cycle(videos):
            taken += 1
            yield path

    predictor = Slow(tiny_spec, seconds=0.005)
    found = predict_videos(predictor, endless(), windows=2, batch=4, workers=1)
    for _ in range(40):
        next(found)
    # 16 a worker ahead of the oldest unfinished one, and the batches on their way.
    assert taken <= 40 + video.AHEAD + 10
    found.close()  # type: ignore[attr-defined]
    assert left_blocks() == []
    assert predictor.threads.isdisjoint({threading.get_ident()})
    assert len(predictor.threads) == 1
    assert set(predictor.batches) == {4}


def test_an_error_of_the_model_ends_it_and_leaves_nothing_behind(
    videos: list[Path], tiny_spec: ModelSpec, left_blocks: Callable[[], list[str]]
) -> None:
    with pytest.raises(HarError, match="out of memory"):
        list(predict_videos(Slow(tiny_spec, error=HarError("out of memory")), videos * 3, batch=4, workers=1))
    assert left_blocks() == []


def test_a_decoder_that_takes_too_long_costs_one_video(
    videos: list[Path], tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "waits.avi")  # nobody writes to it
    paths = [videos[0], tmp_path / "waits.avi", videos[1]]
    found = list(predict_videos(Slow(tiny_spec), paths, workers=1, timeout_s=3))
    assert [type(one) for one in found] == [VideoPrediction, VideoFailure, VideoPrediction]
    assert "longer than the limit" in getattr(found[1], "reason")  # noqa: B009


def test_too_little_shared_memory_is_said(tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.shared_memory, "SharedMemory", refuse)
    with pytest.raises(HarError, match=r"no shared memory of .* fewer windows"):
        list(predict_videos(Slow(tiny_spec), [Path("a.avi")]))


def test_a_file_that_changes_while_it_is_read_is_no_prediction(
    videos: list[Path], tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("har_assets.runtime.windows.MAX_HELD_BYTES", 1)
    readers = iter([VideoReader(videos[0], size=(20, 24)), VideoReader(videos[1], size=(20, 24))])
    monkeypatch.setattr("har_assets.runtime.windows._reader", lambda path, spec: next(readers))
    with pytest.raises(VideoError, match="other frames each time"):
        read_windows(videos[0], tiny_spec, 2)


def test_contact_sheets_show_frames_of_the_whole_video(
    videos: list[Path], tiny_onnx: Path, tiny_spec: ModelSpec
) -> None:
    import io

    from PIL import Image

    for path in videos:
        frames = decode_video(path, size=(tiny_spec.decode_height, tiny_spec.decode_width)).frames_THWC
        sheet_frames = read_windows(path, tiny_spec, 2, sheet_frames=5).sheet_frames
        numbers = [
            next(n for n, frame in enumerate(frames) if np.array_equal(frame, frame_HWC)) for frame_HWC in sheet_frames
        ]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == min(5, len(frames))
        assert numbers[-1] - numbers[0] >= 0.6 * (len(frames) - 1)
    predictor = open_model(tiny_onnx, "onnxruntime_cpu")
    first, second = predict_videos(predictor, [videos[0], videos[1]], workers=1, contact_sheets=True)
    assert isinstance(first, VideoPrediction)
    assert isinstance(second, VideoPrediction)
    picture = Image.open(io.BytesIO(first.contact_sheet))
    assert (picture.format, picture.height, picture.width) == ("JPEG", 96, 5 * 24 * 96 // 20)
    assert Image.open(io.BytesIO(second.contact_sheet)).width == round(24 * 96 / 20)  # one frame
    assert first.decode_s > 0 < first.inference_s
    (plain,) = predict_videos(predictor, [videos[0]], workers=1)
    assert isinstance(plain, VideoPrediction)
    assert plain.contact_sheet == b""
    assert plain.scores == first.scores


def test_a_video_that_claims_to_be_longer_than_wanted_is_left_out(videos: list[Path], tiny_onnx: Path) -> None:
    predictor = open_model(tiny_onnx, "onnxruntime_cpu")
    long, short = predict_videos(predictor, [videos[0], videos[1]], workers=1, longest_s=1.5)
    assert isinstance(long, VideoFailure)
    assert (long.too_long, long.reason) == (True, "the video claims to be 2 s long")
    assert isinstance(short, VideoPrediction)


def test_the_sheet_of_a_film_is_made_of_key_frames(videos: list[Path], tmp_path: Path) -> None:
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(video.film_sheet(videos[0])))
    assert (picture.height, picture.width) == (96, 5 * 128)
    (tmp_path / "none.avi").write_bytes(b"RIFF")
    assert video.film_sheet(tmp_path / "none.avi") == b""
