import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from har_assets.errors import VideoError
from har_assets.video import decode
from har_assets.video.decode import VideoReader, decode_video
from har_assets.video.probe import PROVED_FOR_DECORD, probe
from har_assets.video.resize import RULES
from har_assets.video.sampling import Sampling
from har_assets_tests.video.conftest import read_with_pyav

SmallVideo = Callable[..., Path]


@pytest.fixture
def only_pyav(monkeypatch: pytest.MonkeyPatch) -> Callable[..., decode.VideoFrames]:
    """`decode_video` with decord taken away."""

    def decode_with_pyav(path: Path, **settings: object) -> decode.VideoFrames:
        with monkeypatch.context() as patch:
            patch.setattr(VideoReader, "_all_by_decord", lambda self: [])
            return decode_video(path, **settings)  # type: ignore[arg-type]

    return decode_with_pyav


# ------------------------------------------------------------------------------------ decord and PyAV


def test_real_clips_are_pixel_equal_in_both_decoders(
    hmdb51_clips: list[Path], only_pyav: Callable[..., decode.VideoFrames]
) -> None:
    assert len(hmdb51_clips) == 9
    for clip in hmdb51_clips:
        stored = decode_video(clip, size=None)
        assert stored.decoder == "decord"
        assert stored.note == ""
        reference = read_with_pyav(clip)
        assert stored.num_source_frames == len(stored.frames_THWC) == len(reference)
        assert all(np.array_equal(*pair) for pair in zip(stored.frames_THWC, reference, strict=True))

        scaled = decode_video(clip, size=(112, 150))
        by_pyav = only_pyav(clip, size=(112, 150))
        assert by_pyav.decoder == "pyav"
        assert np.array_equal(scaled.frames_THWC, by_pyav.frames_THWC)


def test_last_frame_of_a_real_clip_is_not_repeated(hmdb51_clips: list[Path]) -> None:
    import decord

    for clip in hmdb51_clips:
        claimed = len(decord.VideoReader(str(clip), num_threads=1))
        assert decode_video(clip, size=(32, 32)).num_source_frames == claimed - 1


def test_b_frames_that_break_decords_index_do_not_touch_reading_in_order(small_video: SmallVideo) -> None:
    import decord

    video = small_video("b.avi", frames=60, b_frames=2, tag="DX50")
    reference = np.stack(read_with_pyav(video))

    asked = list(range(5, 58, 7))
    by_index = decord.VideoReader(str(video), num_threads=1).get_batch(asked).asnumpy()
    assert not np.array_equal(by_index, reference[asked]), "decord's index is right here: the rule can go"

    assert np.array_equal(decode_video(video, size=None).frames_THWC, reference)
    every_seventh = decode_video(video, size=None, sampling=Sampling(7, fps=25))
    assert np.array_equal(every_seventh.frames_THWC, reference[::7])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tag": "DX50"},
        {"tag": "XVID", "b_frames": 2},
        {"tag": "DIVX", "b_frames": 1, "gop": 3},
        {"height": 240, "width": 426, "b_frames": 2},
        {"gop": 1},
        {"frames": 1},
        {"rate": 60},
    ],
    ids=str,
)
@pytest.mark.parametrize(("container", "codec", "pixels"), sorted(PROVED_FOR_DECORD))
def test_what_decord_reads_is_pixel_equal_to_pyav(
    container: str,
    codec: str,
    pixels: str,
    settings: dict[str, object],
    small_video: SmallVideo,
    only_pyav: Callable[..., decode.VideoFrames],
) -> None:
    video = small_video(f"a.{container}", codec=codec, pixels=pixels, **settings)
    for size in (None, (33, 40)):
        first, second = decode_video(video, size=size), only_pyav(video, size=size)
        assert (first.decoder, second.decoder) == ("decord", "pyav")
        assert (first.note, second.note) == ("", "")
        assert np.array_equal(first.frames_THWC, second.frames_THWC)
    assert np.array_equal(decode_video(video, size=None).frames_THWC, read_with_pyav(video))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {"codec": "libx264"}),
        ("a.mkv", {"codec": "libx264", "b_frames": 2}),
        ("a.mpg", {"codec": "mpeg2video", "b_frames": 2}),
        ("a.ts", {"codec": "libx264", "b_frames": 2}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("full_range.avi", {"codec": "mjpeg", "pixels": "yuvj422p"}),
        ("rgb.mkv", {"codec": "ffv1", "pixels": "bgr0"}),
        ("gray.mkv", {"codec": "ffv1", "pixels": "gray"}),
        ("gray.mov", {"codec": "rawvideo", "pixels": "gray"}),
        ("h264.avi", {"codec": "libx264"}),
        ("odd.avi", {"width": 63}),
    ],
)
def test_all_else_is_read_by_pyav(name: str, settings: dict[str, object], small_video: SmallVideo) -> None:
    video = small_video(name, **settings)
    decoded = decode_video(video, size=None)
    assert (decoded.decoder, decoded.num_source_frames, decoded.fps, decoded.note) == ("pyav", 20, 25.0, "")
    assert np.abs(decoded.frames_THWC.astype(int) - read_with_pyav(video)).max() <= 2  # another scaler's rounding


@pytest.mark.parametrize(
    ("name", "frames"),
    [("ts/h264_60frames.ts", 60), ("ts/interlaced_30frames.mpg", 30), ("pal8/indexed.avi", 10)],
)
def test_cases_that_decord_reads_wrong(name: str, frames: int, shared_data: Path) -> None:
    video = shared_data / "cases" / name
    decoded = decode_video(video, size=None)
    assert (len(decoded.frames_THWC), decoded.note) == (frames, "")
    reference_THWC = np.stack(read_with_pyav(video)).astype(int)  # which does not know that colours are interlaced
    for number, frame_HWC in enumerate(decoded.frames_THWC):
        away = np.abs(reference_THWC - frame_HWC).mean(axis=(1, 2, 3))
        assert away[number] == away.min()
    assert decoded.frames_THWC.std() > 5  # no black picture


@pytest.mark.parametrize(("first", "last"), [(0, 19), (1, 20), (0, 0)])
def test_pyav_reads_what_decord_falls_short_of(
    first: int,
    last: int,
    small_video: SmallVideo,
    only_pyav: Callable[..., decode.VideoFrames],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video = small_video()
    right = only_pyav(video, size=None)
    read = VideoReader._read_decord

    def fewer(self: VideoReader) -> Iterator[decode.Shown]:
        shown = list(read(self))
        self.num_source_frames = last - first
        return iter(shown[first:last])

    monkeypatch.setattr(VideoReader, "_read_decord", fewer)
    decoded = decode_video(video, size=None)
    assert (decoded.decoder, decoded.num_source_frames) == ("pyav", 20)
    assert decoded.note == "decord did not give every frame, so PyAV has read the file"
    assert np.array_equal(decoded.frames_THWC, right.frames_THWC)


def test_gaps_of_an_avi_are_left_to_pyav_which_knows_the_times(small_video: SmallVideo) -> None:
    import av

    video = small_video(frames=20)
    gaps = video.with_name("gaps.avi")
    with av.open(str(video)) as source, av.open(str(gaps), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts = packet.dts = 5 * packet.dts
                packet.stream = copy
                container.mux(packet)
    reader = VideoReader(gaps, size=None)
    assert len(list(reader)) == 20
    assert (reader.decoder, reader.note) == ("pyav", "")
    assert [at for at, _ in VideoReader(gaps, size=None).timed()][-1] == pytest.approx(19 * 5 / 25, abs=0.01)


def test_the_film_is_read_and_not_its_cover(shared_data: Path) -> None:
    folder = shared_data / "cases" / "cover"
    film, covered = (decode_video(folder / name, size=None) for name in ("film.wmv", "film_with_cover.wmv"))
    assert (len(film.frames_THWC), film.note, covered.note) == (15, "", "")
    assert np.array_equal(film.frames_THWC, covered.frames_THWC)
    with pytest.raises(VideoError, match="only audio and a cover picture"):
        VideoReader(folder / "audio_with_cover.mp4", size=None)


def test_a_size_of_none_keeps_pixels_that_are_not_square(small_video: SmallVideo) -> None:
    video = small_video("a.mp4", codec="libx264", pixel_aspect=Fraction(16, 11))
    frames_THWC = decode_video(video, size=None).frames_THWC
    assert probe(video).pixel_aspect == pytest.approx(16 / 11)
    assert np.array_equal(frames_THWC, read_with_pyav(video))


@pytest.mark.parametrize("rate", [10, 24, 30, 60, 120])
def test_raw_h264_has_the_rate_that_its_codec_says(rate: int, small_video: SmallVideo) -> None:
    reader = VideoReader(small_video("a.h264", codec="libx264", rate=rate), size=None)
    assert [at for at, _ in reader.timed()] == pytest.approx([number / rate for number in range(20)])
    assert (reader.fps, reader.note) == (rate, "")


def test_a_rate_that_no_one_says_is_assumed_aloud(small_video: SmallVideo) -> None:
    reader = VideoReader(small_video("a.mjpeg", codec="mjpeg", pixels="yuvj420p"), size=None)
    assert [at for at, _ in reader.timed()] == pytest.approx([number / 25 for number in range(20)])
    assert (reader.fps, "25 are assumed" in reader.note) == (0.0, True)


def test_very_narrow_frames_are_left_to_pyav(small_video: SmallVideo) -> None:
    video = small_video(height=8, width=16)
    decoded = decode_video(video, size=None)
    assert decoded.decoder == "pyav"
    assert np.array_equal(decoded.frames_THWC, read_with_pyav(video))


# ------------------------------------------------------------------------------------ size, stride, ends


@pytest.mark.parametrize("resize", RULES)
def test_a_picture_is_scaled_then_its_centre_cut_out(small_video: SmallVideo, resize: str) -> None:
    video = small_video(height=48, width=96)
    wide = decode_video(video, size=(24, 48), resize=resize).frames_THWC
    assert np.array_equal(decode_video(video, size=(24, 24), resize=resize).frames_THWC, wide[:, :, 12:36])
    assert decode_video(video, size=None, resize=resize).frames_THWC.shape == (20, 48, 96, 3)
    assert decode_video(video, size=(50, 10), resize=resize).frames_THWC.shape == (20, 50, 10, 3)
    as_stored = decode_video(video, size=None).frames_THWC
    assert np.array_equal(decode_video(video, size=(48, 90)).frames_THWC, as_stored[:, :, 3:93])  # not scaled


def test_stride_and_max_frames(small_video: SmallVideo) -> None:
    video = small_video(frames=20)
    everything = decode_video(video, size=(32, 32))
    strided = decode_video(video, size=(32, 32), sampling=Sampling(3, fps=25))
    assert np.array_equal(strided.frames_THWC, everything.frames_THWC[::3])
    assert strided.num_source_frames == 20
    other = small_video("a.mkv", frames=20)
    everything = decode_video(other, size=(32, 32))
    limited = decode_video(other, size=(32, 32), sampling=Sampling(3, fps=25), max_frames=4)
    assert np.array_equal(limited.frames_THWC, everything.frames_THWC[:12:3])
    assert limited.num_source_frames == 11  # stopped there: the next one says until when the last is shown


def test_frame_by_frame_gives_the_same_frames(small_video: SmallVideo) -> None:
    video = small_video(frames=20)
    frames = list(VideoReader(video, size=(32, 32)))
    assert np.array_equal(np.stack(frames), decode_video(video, size=(32, 32)).frames_THWC)


@pytest.mark.parametrize("wrong", [{"max_frames": 0}, {"size": (0, 5)}, {"resize": "squeeze"}])
def test_impossible_arguments_are_refused(wrong: dict[str, object], small_video: SmallVideo) -> None:
    with pytest.raises(ValueError, match=r"at least 1|no pixel|no resize rule"):
        decode_video(small_video(), **{"size": (8, 8), **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [None, (64, 64)])
def test_a_picture_size_that_changes_within_the_file(
    size: tuple[int, int] | None, small_video: SmallVideo, only_pyav: Callable[..., decode.VideoFrames]
) -> None:
    first = small_video("first.mpg", codec="mpeg2video", height=96, width=128, frames=10)
    second = small_video("second.mpg", codec="mpeg2video", height=192, width=160, frames=10)
    both = first.with_name("both.mpg")
    both.write_bytes(first.read_bytes() + second.read_bytes())
    for decode_all in (decode_video, only_pyav):
        frames_THWC = decode_all(both, size=size).frames_THWC
        assert len(frames_THWC) in {19, 20}  # one may be lost at the seam
        assert frames_THWC.shape[1:] == (*(size or (96, 128)), 3)


# ------------------------------------------------------------------------------------ odd files

# name: (frames, height, width, decoder at stored size, part of the note)
AWKWARD_DECODABLE = {
    "-moviepy-leading-dash-.mp4": (5, 1, 1, "pyav", ""),
    "decord_corrupted.mp4": (49, 720, 1280, "pyav", "49 of 50 frames"),
    "decord_rotate90.mov": (3, 568, 320, "pyav", ""),
    "made_16x9px.avi": (48, 9, 16, "pyav", ""),
    "made_8k_one_frame.mp4": (1, 4320, 7680, "pyav", ""),
    "made_bitflips.avi": (36, 240, 432, "pyav", "36 of 49 frames"),
    "made_mp4_named.avi": (60, 480, 852, "pyav", ""),
    "made_truncated_half.avi": (23, 240, 432, "pyav", "23 of 49 frames"),
    "made_vfr.mkv": (24, 240, 432, "pyav", ""),
    "moviepy_no_duration.webm": (74, 720, 1280, "pyav", ""),
    "mp4parse_one_frame.mp4": (1, 144, 176, "pyav", ""),
    "torchcodec_av1.mkv": (125, 360, 640, "pyav", ""),
    "torchcodec_h264_10bit.mp4": (30, 200, 200, "pyav", ""),
    "torchcodec_multi_stream.mp4": (325, 180, 320, "pyav", ""),  # stream 0; the largest has 390 of 480x270
}
AWKWARD_REFUSED = {
    "made_zero_bytes.avi": "empty",
    "made_truncated_mp4.mp4": "damaged, cut off",
    "mp4parse_invalid_userdata.mp4": "header but no frame",
    "mp4parse_chunk_out_of_range.mp4": "damaged, cut off",
    "torchcodec_audio_only.mp3": "no video stream, only audio",
}


def test_every_odd_file_is_expected(awkward: Path) -> None:
    assert {path.name for path in awkward.iterdir()} == AWKWARD_DECODABLE.keys() | AWKWARD_REFUSED.keys()


@pytest.mark.parametrize("name", AWKWARD_DECODABLE)
def test_odd_file_gives_frames(name: str, awkward: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frames, height, width, decoder, note = AWKWARD_DECODABLE[name]
    reader = VideoReader(awkward / name, size=None)
    shapes = {frame.shape for frame in reader}
    assert shapes == {(height, width, 3)}
    assert (reader.num_source_frames, reader.decoder) == (frames, decoder)
    assert note in reader.note if note else reader.note == ""
    assert decode_video(awkward / name, size=(64, 85)).frames_THWC.shape == (frames, 64, 85, 3)
    assert capfd.readouterr() == ("", "")  # decord's and FFmpeg's own messages stay silent


@pytest.mark.parametrize("name", AWKWARD_REFUSED)
def test_odd_file_is_refused_in_words(name: str, awkward: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(VideoError, match=AWKWARD_REFUSED[name]):
        decode_video(awkward / name, size=(64, 85))
    assert capfd.readouterr() == ("", "")


def test_rotated_video_is_upright(awkward: Path) -> None:
    import decord

    path = awkward / "decord_rotate90.mov"
    upright = np.stack([np.rot90(frame, 3) for frame in read_with_pyav(path)])  # 90 degrees clockwise
    assert np.array_equal(decode_video(path, size=None).frames_THWC, upright)
    assert np.array_equal(decord.VideoReader(str(path), num_threads=1)[0].asnumpy(), upright[0])


def test_leading_dash_and_colon_in_a_relative_name(
    small_video: SmallVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-i.avi", "http:x.avi", "a%03d.avi"):
        small_video("plain.avi").rename(tmp_path / name)
        assert decode_video(Path(name), size=(8, 8)).num_source_frames == 20


def test_missing_folder_forbidden_text_and_playlist(tmp_path: Path, small_video: SmallVideo) -> None:
    video = small_video("real.avi")
    reasons = {
        tmp_path / "absent.avi": "there is no file",
        tmp_path: "a folder",
    }
    text = tmp_path / "notes.avi"
    text.write_text("These are notes.\n" * 100)
    reasons[text] = "not a video"
    playlist = tmp_path / "list.avi"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{video}\n#EXT-X-ENDLIST\n")
    reasons[playlist] = "playlist|not a video"
    if os.geteuid() != 0:
        forbidden = tmp_path / "forbidden.avi"
        forbidden.write_bytes(b"x")
        forbidden.chmod(0)
        reasons[forbidden] = "permission denied"
    for path, reason in reasons.items():
        with pytest.raises(VideoError, match=reason):
            decode_video(path, size=(8, 8))


def test_header_without_frames_and_cut_first_frame(small_video: SmallVideo) -> None:
    video = small_video("cut.avi", height=240, width=320)
    content = video.read_bytes()
    first_frame = content.index(b"00dc")
    video.write_bytes(content[: first_frame + 4])
    with pytest.raises(VideoError, match="cut off"):
        decode_video(video, size=(8, 8))


def test_strips_are_refused_before_they_are_scaled(small_video: SmallVideo) -> None:
    with pytest.raises(VideoError, match="aspect ratio"):
        decode_video(small_video(height=16, width=640), size=(112, 112))


# ------------------------------------------------------------------------------------ memory

MEASURE = """
import resource, sys
from pathlib import Path
import av, decord, numpy
from har_assets.video.decode import VideoReader, decode_video
from har_assets.video.probe import PROVED_FOR_DECORD, probe
from har_assets.video.resize import RULES
from har_assets.video.sampling import Sampling
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{work}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def extra_mebibytes(work: str, *arguments: object) -> int:
    """Peak memory that `work` adds in a fresh process, in MiB."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE.format(work=work), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stdout)


def test_an_8k_frame_is_kept_small(awkward: Path) -> None:
    work = "assert decode_video(Path(sys.argv[1]), size=(128, 171)).frames_THWC.shape == (1, 128, 171, 3)"
    assert extra_mebibytes(work, awkward / "made_8k_one_frame.mp4") < 450  # one 8K frame is 50 MiB of YUV


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_long_video_is_not_held(decoder: str, small_video: SmallVideo) -> None:
    video = small_video("long.avi", height=240, width=320, frames=480)
    whole = 480 * 240 * 320 * 3 / 2**20  # 105 MiB, more than is held until decord has given all
    without_decord = "import har_assets.video.decode as d; d.VideoReader._all_by_decord = lambda self: []\n"
    prepare = without_decord if decoder == "pyav" else ""
    work = "assert sum(1 for _ in VideoReader(Path(sys.argv[1]), size=None)) == 480"
    assert extra_mebibytes(prepare + work, video) < 0.6 * whole
    work = "assert len(decode_video(Path(sys.argv[1]), size=None, max_frames=8).frames_THWC) == 8"
    assert extra_mebibytes(prepare + work, video) < 0.4 * whole


def test_importing_the_package_imports_no_decoder() -> None:
    code = """
import sys, har_assets.video.decode, har_assets.video.sampling
import har_assets.video.workers, har_assets.video.frame_cache, har_assets.video.check
heavy = {'av', 'decord', 'torch', 'dagster', 'mlflow', 'pandas', 'pebble'} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------ frames with times


def timed(reader: VideoReader) -> list[tuple[float, np.ndarray]]:
    return [(second, picture()) for second, picture in reader.timed()]


def test_timed_frames_are_those_of_the_plain_iteration(hmdb51_clips: list[Path]) -> None:
    for clip in hmdb51_clips:
        reader = VideoReader(clip, size=(112, 150))
        found = timed(reader)
        plain = decode_video(clip, size=(112, 150))
        assert np.array_equal(np.stack([frame for _, frame in found]), plain.frames_THWC)
        assert [second for second, _ in found] == pytest.approx([number / 30 for number in range(len(found))])
        assert (reader.num_source_frames, reader.note, reader.decoder) == (plain.num_source_frames, "", "pyav")
        assert reader.claimed_s == pytest.approx(len(found) / 30, abs=0.1)


def test_a_picture_may_be_asked_for_later_or_never(small_video: SmallVideo) -> None:
    video = small_video(b_frames=2, tag="DX50", frames=30)
    pictures = [picture for _, picture in VideoReader(video, size=(24, 32)).timed()]
    assert np.array_equal(pictures[7](), decode_video(video, size=(24, 32)).frames_THWC[7])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_more_threads_give_the_same_frames_and_times(small_video: SmallVideo, name: str) -> None:
    video = small_video(name, codec="libx264", b_frames=2, frames=60)
    one, four = (
        [(second, picture()) for second, picture in VideoReader(video, size=(24, 32)).timed(threads=threads)]
        for threads in (1, 4)
    )
    assert [second for second, _ in four] == [second for second, _ in one]
    assert np.array_equal([frame for _, frame in four], [frame for _, frame in one])


def test_times_of_a_variable_frame_rate(awkward: Path) -> None:
    found = [second for second, _ in VideoReader(awkward / "made_vfr.mkv", size=None).timed()]
    assert found[:4] == pytest.approx([0, 0.033, 0.066, 0.1])
    assert found[-1] == pytest.approx(1.5)
    assert len(set(np.diff(found).round(2))) > 1


def test_timed_frames_of_a_file_without_frames_are_refused(awkward: Path) -> None:
    with pytest.raises(VideoError, match="no frame behind it"):
        timed(VideoReader(awkward / "mp4parse_invalid_userdata.mp4", size=(8, 8)))
