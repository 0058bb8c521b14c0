"""The same motion is the same clips: at any frame rate, in any shape, in the test set and as a file."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from har_assets.model.spec import ModelSpec
from har_assets.runtime import open_model
from har_assets.runtime.evaluation import score_clips
from har_assets.runtime.video import predict_video, predict_videos
from har_assets.runtime.windows import read_windows
from har_assets.video.decode import decode_video
from har_assets.video.frame_cache import CacheParams, FrameCache, build_frame_cache
from har_assets.video.resize import COVER, SHORT_SIDE, Fit
from har_assets.video.sampling import Sampling
from har_assets_tests.video.conftest import unpack_real_clips
from har_assets_tests.videos import write_video

SECONDS = 2.0

GREY_A_SECOND = 100

SPEC = ModelSpec(
    labels=("a", "b"),
    num_frames=8,
    frame_stride=2,
    decode_height=16,
    decode_width=16,
    frame_height=16,
    frame_width=16,
    resize=SHORT_SIDE,
)


def ramp(path: Path, times_s: list[float], rate: Fraction | int) -> Path:
    """A video whose picture is as bright as the time at which it is shown."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate, options={"qmin": "1", "qmax": "1"})
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuvj420p"
        ticks = Fraction(1, rate) if path.suffix == ".avi" else Fraction(1, 90_000)
        stream.codec_context.time_base = ticks
        for shown_s in times_s:
            grey = np.full((16, 16, 3), round(shown_s * GREY_A_SECOND), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = round(shown_s / ticks), ticks
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def at_rate(folder: Path, suffix: str, rate: Fraction | int) -> Path:
    return ramp(folder / f"ramp{suffix}", [float(n / rate) for n in range(round(SECONDS * rate))], rate)


def seconds_of(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """The time of every frame of three windows as its picture says and as it should be, [3, T] each, and the note."""
    read = read_windows(path, SPEC, 3)
    expected_BT = (np.array(read.starts)[:, None] + np.arange(SPEC.num_frames)) * SPEC.sampling.step_s
    return read.clips_BCTHW.mean(axis=(1, 3, 4)) / GREY_A_SECOND, expected_BT, read.note


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".avi"])
@pytest.mark.parametrize("rate", [10, 15, 24, 25, Fraction(30_000, 1001), 30, 50, 60, 120])
def test_a_window_spans_the_same_seconds_at_every_rate(tmp_path: Path, rate: Fraction | int, suffix: str) -> None:
    found_BT, expected_BT, note = seconds_of(at_rate(tmp_path, suffix, rate))
    assert expected_BT[:, 0] / SPEC.sampling.step_s == pytest.approx([0, 11, 22])  # 30 kept frames, windows of 8
    late_BT = expected_BT - found_BT  # the frame on the screen was made up to one interval ago
    assert late_BT.min() > -0.02
    assert late_BT.max() < 1 / rate + 0.02
    assert note == ("" if rate >= 15 else "10 frames a second, fewer than the 15 that are looked at: some repeat")


def test_a_variable_frame_rate_spans_them_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times_s = np.sort(rng.uniform(0, SECONDS, 70)).tolist()
    shown = np.array([0.0, *times_s])
    found_BT, moments_BT, _ = seconds_of(ramp(tmp_path / "vfr.mkv", shown.tolist(), 30))
    expected_BT = shown[np.searchsorted(shown, moments_BT + SPEC.sampling.slack_s, side="right") - 1]
    assert np.abs(found_BT - expected_BT).max() < 0.02


def test_of_thirty_frames_a_second_the_frames_are_every_second_one(tmp_path: Path) -> None:
    pictures_THWC = np.random.default_rng(1).integers(0, 256, (61, 24, 32, 3), dtype=np.uint8)
    video = write_video(tmp_path / "a.avi", pictures_THWC)
    every = decode_video(video, size=(20, 24), resize=COVER).frames_THWC
    kept = decode_video(video, size=(20, 24), sampling=Sampling(2), resize=COVER)
    assert np.array_equal(kept.frames_THWC, every[::2])
    assert (kept.num_source_frames, kept.decoder, kept.note) == (61, "decord", "")


def test_so_they_are_of_real_clips(hmdb51_clips: list[Path]) -> None:
    for clip in hmdb51_clips:
        every = decode_video(clip, size=(128, 171), resize=COVER)
        kept = decode_video(clip, size=(128, 171), sampling=Sampling(2), resize=COVER)
        assert np.array_equal(kept.frames_THWC, every.frames_THWC[::2])
        assert (kept.num_source_frames, kept.note) == (every.num_source_frames, "")


def test_the_shared_ramps_agree(shared_data: Path) -> None:
    folder = shared_data / "cases" / "tempo"
    greys = [read_windows(path, SPEC, 2).clips_BCTHW.mean(axis=(1, 3, 4)) for path in sorted(folder.iterdir())]
    assert len(greys) == 3
    for each in greys[1:]:
        assert np.abs(each - greys[0]).max() < 12  # a frame of the slowest


# ------------------------------------------------------------------------------------ the test set and a file


@pytest.fixture(scope="module")
def hmdb51_clips(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return unpack_real_clips(shared_data / "hmdb51_mini.rar", tmp_path_factory.mktemp("hmdb51"))


@pytest.fixture
def long_videos(tmp_path: Path, hmdb51_clips: list[Path]) -> dict[str, Path]:
    """Real clips, and made ones that change late and have other rates and shapes."""
    rng = np.random.default_rng(2)
    late = np.concatenate([np.zeros((60, 24, 32, 3), np.uint8), rng.integers(0, 256, (90, 24, 32, 3), dtype=np.uint8)])
    made = {
        "made/late.avi": write_video(tmp_path / "late.avi", late),
        "made/portrait.avi": write_video(tmp_path / "portrait.avi", late.transpose(0, 2, 1, 3)),
        "made/25.mkv": at_rate(tmp_path, ".mkv", 25),
        "made/60.mov": at_rate(tmp_path, ".mov", 60),
    }
    return {**{f"real/{clip.name}": clip for clip in hmdb51_clips}, **made}


@pytest.mark.parametrize("max_frames", [None, 6])
def test_test_videos_are_scored_exactly_as_files(
    tmp_path: Path, tiny_onnx: Path, long_videos: dict[str, Path], max_frames: int | None
) -> None:
    predictor = open_model(tiny_onnx, "onnxruntime_cpu")
    spec = predictor.spec
    params = CacheParams(
        *(spec.decode_height, spec.decode_width, spec.frame_stride), max_frames, fps=spec.fps, resize=spec.resize
    )
    arguments = {"params": params, "work": tmp_path / "work", "log": lambda line: None}
    # Held in part by an earlier cache, when they were videos for training.
    build_frame_cache(long_videos, folder=tmp_path / "first", **arguments)
    report = build_frame_cache(
        long_videos, folder=tmp_path / "cache", previous=tmp_path / "first", whole=list(long_videos), **arguments
    )
    assert report.decoded == (len(long_videos) if max_frames else 0)
    scores_NK = score_clips(predictor, list(long_videos), FrameCache(tmp_path / "cache"), 4)
    alone = [predict_video(predictor, path, windows=4) for path in long_videos.values()]
    together = predict_videos(predictor, long_videos.values(), windows=4, workers=1)
    for scores_K, one, other in zip(scores_NK, alone, together, strict=True):
        by_label = dict(zip(one.labels, one.scores, strict=True))
        assert [by_label[label] for label in spec.labels] == scores_K.tolist()
        assert other.scores == pytest.approx(one.scores, abs=1e-6)  # another batch, other additions


def test_training_videos_are_cut_and_a_whole_one_is_kept_when_asked_for_less(
    tmp_path: Path, long_videos: dict[str, Path]
) -> None:
    params = CacheParams(20, 24, 2, 6)
    arguments = {"params": params, "work": tmp_path / "work", "log": lambda line: None}
    build_frame_cache(long_videos, folder=tmp_path / "a", whole=["made/late.avi"], **arguments)
    cache = FrameCache(tmp_path / "a")
    assert len(cache.frames("made/late.avi")) == 75
    assert {len(cache.frames(clip)) for clip in long_videos if clip != "made/late.avi"} == {6}


# ------------------------------------------------------------------------------------ shapes


def disc(path: Path, height: int, width: int, aspect: Fraction = Fraction(1), codec: str = "libx264") -> Path:
    """A white disc that is round on the screen, as wide as half the short side; `aspect` of a displayed pixel."""
    y, x = np.mgrid[0:height, 0:width]
    shown_x = (x - width / 2 + 0.5) * float(aspect)
    inside = np.hypot(shown_x, y - height / 2 + 0.5) < min(height, width * float(aspect)) / 4
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(4):
            picture = np.repeat(inside[..., None] * np.uint8(255), 3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def extent(frame_HWC: np.ndarray) -> tuple[int, int]:
    """(height, width) of what is white."""
    white_HW = frame_HWC[..., 0] > 128
    return int(white_HW.any(axis=1).sum()), int(white_HW.any(axis=0).sum())


@pytest.mark.parametrize("size", [(64, 64), (64, 86), (86, 64)])
@pytest.mark.parametrize(
    ("height", "width", "aspect"),
    [
        (120, 160, Fraction(1)),
        (180, 320, Fraction(1)),
        (320, 180, Fraction(1)),
        (160, 160, Fraction(1)),
        (144, 176, Fraction(12, 11)),  # PAL
        (120, 90, Fraction(2)),
        (240, 120, Fraction(1, 2)),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_disc_stays_round_and_as_large_in_every_shape(
    tmp_path: Path, name: str, height: int, width: int, aspect: Fraction, size: tuple[int, int]
) -> None:
    codec = "mpeg4" if name == "a.avi" else "libx264"
    decoded = decode_video(disc(tmp_path / name, height, width, aspect, codec), size=size)
    found = extent(decoded.frames_THWC[0])
    assert np.abs(np.subtract(found, 32)).max() <= 3  # half of the short side of 64
    assert decoded.frames_THWC.shape[1:3] == size


def test_the_old_rule_covers_the_frame_with_the_stored_pixels() -> None:
    assert Fit((128, 171), COVER).scaled(240, 320, 2.0) == (128, 172)
    assert Fit((128, 171), COVER).scaled(640, 360) == (304, 172)
    assert Fit((128, 171), SHORT_SIDE).scaled(240, 320) == (128, 172)
    assert Fit((128, 171), SHORT_SIDE).scaled(640, 360) == (228, 128)
    assert Fit(None).scaled(240, 320) is None


def test_what_is_missing_is_black_on_both_sides() -> None:
    picture_HWC = np.full((8, 4, 3), 200, np.uint8)
    frame_HWC = Fit((6, 8)).cut(picture_HWC)
    assert frame_HWC.shape == (6, 8, 3)
    assert (frame_HWC[:, 2:6] == 200).all()
    assert not frame_HWC[:, :2].any()
    assert not frame_HWC[:, 6:].any()


def test_a_number_of_frames_has_an_end_where_a_picture_stands_still(tmp_path: Path) -> None:
    still = ramp(tmp_path / "slides.mkv", [0.0, 1.0, 2.4], 30)
    kept = decode_video(still, size=(16, 16), sampling=Sampling(2)).frames_THWC
    assert len(kept) == 37  # 2.4 s and a thirtieth, fifteen a second
    greys = kept.mean(axis=(1, 2, 3)).round()
    assert (np.diff(greys) != 0).sum() == 2


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"fps": 0.0}, {"fps": float("nan")}, {"fps": float("inf")}])
def test_impossible_samplings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_a_spec_of_before_has_thirty_frames_a_second_and_the_old_rule() -> None:
    import json

    fields = json.loads(SPEC.to_json())
    del fields["fps"], fields["resize"]
    old = ModelSpec.from_json(json.dumps(fields))
    assert (old.fps, old.resize, old.clip_s) == (30.0, COVER, pytest.approx(16 / 30))
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC
