import dataclasses
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from har_assets.errors import HarError, VideoError
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.runtime import cut
from har_assets.runtime.predictor import Predictor, Scores
from har_assets.runtime.timeline import Segment, Timeline, merge, predict_timeline, smooth
from har_assets.video.decode import decode_video
from har_assets.video.sampling import Clips, centre_crop, take_window, to_clip_CTHW
from har_assets_tests.videos import write_video

GREY = (40, 120, 200)
"""Brightness of the frames that show class 0, 1, 2."""


class Brightness(Predictor):
    """Knows the class by the mean brightness of a clip: the nearest of GREY, the surer the nearer."""

    name = runtime = "brightness"

    def __init__(self, spec: ModelSpec, before: Callable[[], None] = lambda: None) -> None:
        super().__init__(spec, Provenance())
        self.before = before
        self.clips: list[Clips] = []

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        self.before()
        self.clips.append(clips_BCTHW.copy())
        distance_BK = np.abs(clips_BCTHW.mean(axis=(1, 2, 3, 4))[:, None] - GREY)
        scores_BK = np.exp(-distance_BK / 10)
        return (scores_BK / scores_BK.sum(axis=1, keepdims=True)).astype(np.float32)


def write_film(path: Path, greys: Sequence[int], times_ms: Sequence[int] | None = None, fps: int = 30) -> Path:
    """One frame of each grey, in an intra-only coding, shown at the given times (or at `fps`)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=fps, options={"qmin": "1", "qmax": "1"})
        stream.height, stream.width, stream.pix_fmt = 20, 24, "yuvj420p"
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, grey in enumerate(greys):
            frame = av.VideoFrame.from_ndarray(np.full((20, 24, 3), grey, np.uint8), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def seen(predictor: Brightness) -> list[list[int]]:
    """Greys of the frames of each clip, in tens."""
    return [
        [round(float(grey) / 10) for grey in clip_CTHW.mean(axis=(0, 2, 3))]
        for clips in predictor.clips
        for clip_CTHW in clips
    ]


def test_clips_are_those_of_training_and_one_pass_gives_them_all(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    spec = dataclasses.replace(tiny_spec, frame_stride=2)
    rng = np.random.default_rng(0)
    film = write_video(tmp_path / "film.avi", rng.integers(0, 256, (95, 24, 32, 3), dtype=np.uint8))
    for hop in (3, 4, 20):  # frames; a clip spans 8
        predictor = Brightness(spec)
        found = predict_timeline(predictor, film, hop_s=hop / 30, batch=5)
        frames_THWC = centre_crop(decode_video(film, size=(20, 24)).frames_THWC, (16, 16))
        expected = []
        for start in range(0, 95, hop):
            if start and start + 4 > 95:  # less than half of it lies in the film
                break
            # At the end the last frame of the clip is repeated.
            kept = frames_THWC[start::2]
            expected.append(to_clip_CTHW(take_window(kept, 0, 4)))
        np.testing.assert_array_equal(np.concatenate(predictor.clips), np.stack(expected))
        assert (found.frames, found.clips, len(found.scores_NK)) == (95, len(expected), len(expected))
        assert found.duration_s == pytest.approx(95 / 30)
        assert found.window_s == pytest.approx(8 / 30)


def test_a_longer_window_is_covered_by_clips_of_the_trained_length(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    film = write_film(tmp_path / "film.avi", [10 * (number % 25) for number in range(60)])
    predictor = Brightness(tiny_spec)
    found = predict_timeline(predictor, film, window_s=10 / 30, hop_s=10 / 30, smoothing_s=0)
    assert seen(predictor)[:3] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert len(found.scores_NK) == 6
    scores_BK = predictor._scores(np.concatenate(predictor.clips))
    np.testing.assert_allclose(found.scores_NK[0], scores_BK[:3].mean(axis=0), rtol=1e-5)
    assert found.window_s == pytest.approx((2 * 10 / 3 + 4) / 30)  # to the end of its last clip
    assert len(scores_BK) == 18


def test_windows_that_overlap_share_their_clips(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    film = write_film(tmp_path / "film.avi", [10 * (number % 25) for number in range(300)])
    predictor = Brightness(tiny_spec)
    found = predict_timeline(predictor, film, window_s=37 * 4 / 30, hop_s=4 / 30, smoothing_s=0)
    assert len(found.scores_NK) == 57  # the last ones lie half behind the end
    assert found.clips == 75  # the film once
    scores_BK = predictor._scores(np.concatenate(predictor.clips))
    np.testing.assert_allclose(found.scores_NK[20], scores_BK[20:57].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.scores_NK[-1], scores_BK[56:].mean(axis=0), rtol=1e-5)


def test_what_lies_between_windows_is_not_looked_at(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    film = write_film(tmp_path / "film.avi", [10 * (number % 25) for number in range(60)])
    predictor = Brightness(tiny_spec)
    found = predict_timeline(predictor, film, window_s=8 / 30, hop_s=20 / 30)
    starts = (0, 4, 20, 24, 40, 44)
    assert seen(predictor) == [[frame % 25 for frame in range(start, start + 4)] for start in starts]
    assert len(found.scores_NK) == 3


def test_the_tempo_is_that_of_training_whatever_the_rate_of_the_film(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    greys = [10 * number for number in range(24)]
    for fps, expected in ((60, [0, 2, 4, 6]), (15, [0, 0, 1, 1]), (30, [0, 1, 2, 3])):
        predictor = Brightness(tiny_spec)
        predict_timeline(predictor, write_film(tmp_path / f"{fps}.avi", greys, fps=fps))
        assert seen(predictor)[0] == expected
    predictor = Brightness(tiny_spec)
    predictor.spec = dataclasses.replace(tiny_spec, fps=60.0)
    predict_timeline(predictor, tmp_path / "60.avi")
    assert seen(predictor)[0] == [0, 1, 2, 3]


def test_a_variable_frame_rate_is_taken_by_its_times(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    # Ten frames a second, then a picture that stands still for two seconds, then fifty frames a second.
    times_ms = [*range(0, 1000, 100), *range(3000, 4000, 20)]
    greys = [GREY[0]] * 9 + [GREY[1]] + [GREY[2]] * 50
    predictor = Brightness(tiny_spec)
    found = predict_timeline(predictor, write_film(tmp_path / "film.mkv", greys, times_ms), hop_s=0.05)
    assert [segment.label for segment in found.segments] == list(tiny_spec.labels)
    assert [segment.start_s for segment in found.segments] == pytest.approx([0.0, 0.9, 3.0], abs=0.05)
    assert [segment.end_s for segment in found.segments] == pytest.approx([0.9, 3.0, 4.0], abs=0.05)
    assert len(found.scores_NK) == pytest.approx(4 / 0.05, abs=2)
    assert found.clips < len(found.scores_NK) - 30  # a picture that stands still is scored once


def test_segments_begin_and_end_where_the_actions_do(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    # jump 2 s, sit 1.5 s, stand 3 s, jump 1 s
    greys = [GREY[0]] * 60 + [GREY[1]] * 45 + [GREY[2]] * 90 + [GREY[0]] * 30
    film = write_film(tmp_path / "film.avi", greys)
    found = predict_timeline(Brightness(tiny_spec), film, window_s=0.4, hop_s=0.2)
    assert [segment.label for segment in found.segments] == ["jump", "sit", "stand", "jump"]
    borders = [segment.start_s for segment in found.segments] + [found.segments[-1].end_s]
    assert borders == pytest.approx([0, 2, 3.5, 6.5, 7.5], abs=0.2)
    assert all(segment.score > 0.8 for segment in found.segments)
    written = json.loads(json.dumps(found.to_dict(windows=True)))
    assert written["segments"][1]["label"] == "sit"
    assert written["windows"][0]["start_s"] == 0
    assert written["windows"][-1]["end_s"] == written["duration_s"] == 7.5
    assert len(written["windows"]) == len(found.scores_NK)
    assert "windows" not in found.to_dict()
    sure = predict_timeline(Brightness(tiny_spec), film, window_s=0.4, hop_s=0.2, threshold=1)
    assert sure.segments == ()


def test_smoothing_is_a_centred_mean_of_what_is_there() -> None:
    scores_NK = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(smooth(scores_NK, 1), scores_NK)
    np.testing.assert_allclose(smooth(scores_NK, 3)[:, 0], [1 / 2, 2 / 3, 1 / 3, 1 / 2])
    np.testing.assert_allclose(smooth(scores_NK, 9)[:, 0], [1 / 2] * 4)
    assert smooth(scores_NK[:1], 3).dtype == np.float32


def test_smoothing_removes_a_flicker_and_keeps_borders(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    greys = [GREY[0]] * 60 + [GREY[2]] * 4 + [GREY[0]] * 56 + [GREY[1]] * 60
    film = write_film(tmp_path / "film.avi", greys)
    plain = predict_timeline(Brightness(tiny_spec), film, hop_s=4 / 30, smoothing_s=0)
    assert [segment.label for segment in plain.segments] == ["jump", "stand", "jump", "sit"]
    smoothed = predict_timeline(Brightness(tiny_spec), film, hop_s=4 / 30, smoothing_s=0.8)
    assert [segment.label for segment in smoothed.segments if segment.label != "stand"][-1] == "sit"
    assert "stand" not in {segment.label for segment in smoothed.segments}
    assert smoothed.segments[-1].start_s == pytest.approx(4, abs=4 / 30)


def test_neighbours_of_one_label_become_one_segment_and_weak_ones_none() -> None:
    scores_NK = np.array([[0.9, 0.1], [0.7, 0.3], [0.55, 0.45], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4]], np.float32)
    borders_s = np.array([0, 1, 2, 3, 4, 5, 5.5])
    found = merge(scores_NK, borders_s, ("run", "walk"), 0.58)
    assert found == (
        Segment("run", 0, 2, pytest.approx(0.8)),
        Segment("walk", 3, 5, pytest.approx(0.85)),
        Segment("run", 5, 5.5, pytest.approx(0.6)),
    )
    assert merge(scores_NK, borders_s, ("run", "walk"), 0.95) == ()
    half_NK = np.array([[0.5, 0.5], [0.75, 0.25]], np.float32)
    assert merge(half_NK, borders_s[:3], ("run", "walk"), 0.75) == (Segment("run", 1, 2, 0.75),)  # reached is enough
    assert len(merge(scores_NK, borders_s, ("run", "walk"), 0)) == 3


def test_a_film_shorter_than_a_window_and_one_of_one_frame(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    predictor = Brightness(tiny_spec)
    found = predict_timeline(predictor, write_film(tmp_path / "2.avi", [120, 130]), window_s=30)
    assert seen(predictor) == [[12, 13, 13, 13]]  # padded as in training
    assert found.borders_s.tolist() == pytest.approx([0, 2 / 30])
    assert [segment.label for segment in found.segments] == ["sit"]
    for fps in (1, 30, 500):
        found = predict_timeline(Brightness(tiny_spec), write_film(tmp_path / "1.avi", [120], fps=fps))
        assert [(one.label, one.start_s, one.end_s) for one in found.segments] == [("sit", 0, pytest.approx(1 / fps))]
        assert (found.frames, found.clips) == (1, 1)


def test_what_gives_no_frame_is_refused_with_its_reason(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "text.mp4").write_text("#EXTM3U\n#EXTINF:10,\n/etc/passwd\n")
    for name, words in (
        ("empty.mp4", "0 bytes"),
        ("garbage.mp4", "not a video"),
        ("text.mp4", "playlist|not a video"),
        ("none.mp4", "there is no file"),
        (".", "folder"),
    ):
        with pytest.raises(VideoError, match=words):
            predict_timeline(Brightness(tiny_spec), tmp_path / name)


def test_a_damaged_film_has_a_timeline_until_there(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    whole = write_film(tmp_path / "whole.avi", [GREY[0]] * 60 + [GREY[1]] * 60)
    (tmp_path / "part.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    found = predict_timeline(Brightness(tiny_spec), tmp_path / "part.avi")
    assert [segment.label for segment in found.segments] == ["jump", "sit"]
    assert 2 < found.duration_s < 4
    assert "of 120 frames could be decoded" in found.note
    assert "cut off" in found.note


def test_awkward_files_have_a_timeline_or_a_reason(shared_data: Path, tiny_spec: ModelSpec) -> None:
    files = sorted((shared_data / "awkward").iterdir())
    outcomes: dict[str, Timeline | str] = {}
    for file in files:
        try:
            outcomes[file.name] = predict_timeline(Brightness(tiny_spec), file)
        except VideoError as error:
            outcomes[file.name] = str(error)
    assert len(outcomes) == len(files) >= 19
    timelines = {name: found for name, found in outcomes.items() if isinstance(found, Timeline)}
    assert all(reason for reason in outcomes.values() if isinstance(reason, str))
    assert len(timelines) >= 14
    for found in timelines.values():
        assert 0 < found.duration_s < 20
        assert len(found.borders_s) == len(found.scores_NK) + 1
        assert np.all(np.diff(found.borders_s) > 0)
        np.testing.assert_allclose(found.scores_NK.sum(axis=1), 1, atol=1e-5)
    assert timelines["made_vfr.mkv"].duration_s == pytest.approx(1.533, abs=0.05)


def test_a_decoder_that_dies_costs_this_film_only_and_leaves_nothing_behind(
    tmp_path: Path, tiny_spec: ModelSpec, left_blocks: Callable[[], list[str]]
) -> None:
    film = write_film(tmp_path / "film.avi", [100, 101, 102, 103] * 300)

    def kill_decoder() -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(VideoError, match="took its process down"):
        predict_timeline(Brightness(tiny_spec, before=kill_decoder), film, batch=2)
    assert left_blocks() == []
    assert predict_timeline(Brightness(tiny_spec), film).frames == 1200
    assert multiprocessing.active_children() == []


def test_a_film_that_takes_too_long_is_given_up(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    os.mkfifo(tmp_path / "waits.avi")  # nobody writes to it
    with pytest.raises(VideoError, match="longer than the limit of 1 s"):
        predict_timeline(Brightness(tiny_spec), tmp_path / "waits.avi", timeout_s=1)


def test_an_error_of_the_model_ends_it_and_leaves_nothing_behind(
    tmp_path: Path, tiny_spec: ModelSpec, left_blocks: Callable[[], list[str]]
) -> None:
    film = write_film(tmp_path / "film.avi", [100, 101] * 300)

    def fail() -> None:
        raise HarError("out of memory")

    with pytest.raises(HarError, match="out of memory"):
        predict_timeline(Brightness(tiny_spec, before=fail), film)
    assert left_blocks() == []
    assert multiprocessing.active_children() == []


def test_progress_is_told_and_the_number_of_clips_has_an_end(
    tmp_path: Path, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_film(tmp_path / "film.mkv", [100, 120], [0, 500_000])
    monkeypatch.setattr(cut, "MAX_CLIPS", 900)
    with pytest.raises(VideoError, match="more than 900 clips"):
        predict_timeline(Brightness(tiny_spec), film, hop_s=0.5)
    told: list[tuple[float, float]] = []
    slow = write_film(tmp_path / "slow.avi", [100, 101, 102, 103] * 300)
    import time

    predict_timeline(
        Brightness(tiny_spec, before=lambda: time.sleep(0.05)), slow, batch=8, progress=lambda *at: told.append(at)
    )
    assert told == sorted(told)
    assert told
    # On a busy machine a second passes, and is reported, before the decoding process has opened the file.
    assert told[-1][1] == 40


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window_s": 0.05}, r"A window of 0.05 s is shorter than the 0.13 s that this model looks at"),
        ({"window_s": math.nan}, "shorter than"),
        ({"window_s": math.inf}, "cannot be"),
        ({"hop_s": 0}, "every 0 s cannot be"),
        ({"hop_s": math.nan}, "cannot be"),
        ({"smoothing_s": -1}, "averaged over -1 s"),
        ({"threshold": 1.5}, "scores lie between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tiny_spec: ModelSpec, options: dict[str, float], words: str) -> None:
    with pytest.raises(HarError, match=words):
        predict_timeline(Brightness(tiny_spec), Path("none.avi"), **options)  # type: ignore[arg-type]


def test_too_little_shared_memory_is_said(tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.shared_memory, "SharedMemory", refuse)
    with pytest.raises(HarError, match=r"no shared memory of .* smaller batch"):
        predict_timeline(Brightness(tiny_spec), Path("a.avi"))
