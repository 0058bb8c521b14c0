"""What is missing is noted, and what is hidden or repeated by design is not."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from har_assets.errors import VideoError
from har_assets.video.decode import VideoReader, decode_video
from har_assets_tests.video.conftest import read_with_pyav

SmallVideo = Callable[..., Path]


def packets_of(video: Path) -> list[bytes]:
    import av

    with av.open(str(video)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def remux(video: Path, name: str, change: Callable[[list[bytes]], Iterable[bytes]]) -> Path:
    """The file again with other packets, each shown for a 25th of a second."""
    import av

    other = video.with_name(name)
    with av.open(str(video)) as source, av.open(str(other), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        for number, content in enumerate(change(packets_of(video))):
            packet = av.Packet(content)
            packet.stream, packet.time_base = copy, stream.time_base
            packet.pts = packet.dts = round(number / 25 / stream.time_base)
            packet.is_keyframe = number == 0
            container.mux(packet)
    return other


def spoil(video: Path, number: int, byte: bytes = b"\xff") -> None:
    packet = packets_of(video)[number]
    content = bytearray(video.read_bytes())
    at = content.index(packet)
    content[at : at + len(packet)] = byte * len(packet)
    video.write_bytes(content)


# ------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {"codec": "libx264"}),
        ("a.mkv", {"codec": "libx264", "b_frames": 2}),
        ("a.mkv", {"codec": "libx265"}),
        ("a.avi", {}),
        ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.mov", {"codec": "png", "pixels": "rgb24"}),
    ],
)
def test_the_film_goes_on_after_a_damaged_packet(
    name: str, settings: dict[str, object], small_video: SmallVideo
) -> None:
    video = small_video(name, frames=60, **settings)
    before = read_with_pyav(video)
    spoil(video, 31)
    decoded = decode_video(video, size=None)
    assert len(decoded.frames_THWC) == 59
    assert decoded.note.startswith("59 of 60 frames could be decoded, 1 missing (damaged)")
    assert decoded.decoder == "pyav"
    assert np.array_equal(decoded.frames_THWC[:24], before[:24])
    assert np.array_equal(decoded.frames_THWC[-10:], before[-10:])  # from the next key frame on
    for threads in (1, 4):
        timed = [picture() for _, picture in VideoReader(video, size=None).timed(threads=threads)]
        assert np.array_equal(timed, decoded.frames_THWC)


def test_one_damaged_packet_of_120(shared_data: Path) -> None:
    folder = shared_data / "cases" / "badpacket"
    good, bad = (decode_video(folder / name, size=None) for name in ("good.mp4", "one_bad_packet.mp4"))
    assert (len(good.frames_THWC), good.note) == (120, "")
    assert (len(bad.frames_THWC), bad.note) == (119, "119 of 120 frames could be decoded, 1 missing (damaged)")


def test_a_damaged_first_packet(small_video: SmallVideo) -> None:
    video = small_video("a.mov", codec="png", pixels="rgb24", frames=10)
    spoil(video, 0)
    assert decode_video(video, size=None).note == "9 of 10 frames could be decoded, 1 missing (damaged)"
    for number in range(1, 10):
        spoil(video, number)
    with pytest.raises(VideoError, match="unreadable before the first frame"):
        decode_video(video, size=None)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.wmv", "wmv2"),
        ("a.flv", "flv"),
        ("a.ts", "mpeg2video"),
        ("a.avi", "mpeg4"),
    ],
)
def test_a_cut_off_file_is_compared_with_what_it_claims(
    name: str, codec: str, share: float, small_video: SmallVideo
) -> None:
    video = small_video(name, codec=codec, frames=60, height=96, width=128)
    whole = decode_video(video, size=None)
    assert (len(whole.frames_THWC), whole.note) == (60, "")
    with video.open("r+b") as file:
        file.truncate(int(video.stat().st_size * share))
    decoded = decode_video(video, size=None)
    assert len(decoded.frames_THWC) < 60
    assert "cut off" in decoded.note


def test_a_cut_off_matroska_of_four_seconds(shared_data: Path) -> None:
    decoded = decode_video(shared_data / "cases" / "truncated" / "cut.mkv", size=None)
    assert (len(decoded.frames_THWC), decoded.note) == (40, "40 of 120 frames could be decoded, 80 missing (cut off)")


def test_a_machine_without_free_files_is_no_damage(small_video: SmallVideo) -> None:
    import subprocess
    import sys

    code = """
import os, resource, sys
from pathlib import Path
import av
from har_assets.errors import VideoError
from har_assets.video.probe import probe, reason
probe(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    probe(Path(sys.argv[1]))
except VideoError as error:
    print(error)
try:
    av.open(sys.argv[1])
except av.FFmpegError as error:
    print(reason(error, Path(sys.argv[1])))
"""
    done = subprocess.run([sys.executable, "-c", code, str(small_video())], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["the file cannot be read: Too many open files"] * 2


def test_an_error_of_the_disk_is_told_from_a_file_that_is_cut_off(tmp_path: Path) -> None:
    import errno

    from av.error import FFmpegError

    from har_assets.video.probe import reason

    error = FFmpegError(errno.EIO, "Input/output error")
    whole = tmp_path / "a.mp4"
    whole.write_bytes(b"readable")
    assert "damaged, cut off" in reason(error, whole)
    unreadable = Path("/proc/self/mem")  # its first page cannot be read: the system says EIO
    assert reason(error, unreadable) == "the file cannot be read: Input/output error"


# ------------------------------------------------------------------------------------ no losses


def test_what_an_edit_list_hides_is_no_loss(shared_data: Path) -> None:
    decoded = decode_video(shared_data / "cases" / "notes" / "lossless_cut.mp4", size=None)
    assert (len(decoded.frames_THWC), decoded.note) == (47, "")


@pytest.mark.parametrize(("codec", "bit"), [("libvpx", 0x10), ("libvpx-vp9", 0x02)])
def test_frames_that_are_never_shown_are_no_loss(codec: str, bit: int, small_video: SmallVideo) -> None:
    video = small_video("a.webm", codec=codec, frames=30)

    def with_hidden_ones(packets: list[bytes]) -> Iterable[bytes]:
        hidden = bytes([packets[0][0] & ~bit]) + packets[0][1:]
        return [hidden, *packets[:1], hidden, hidden, *packets[:1], *packets[1:]]

    other = remux(video, "hidden.webm", with_hidden_ones)
    if codec == "libvpx":  # a file holds the hidden frames of VP9 in one packet with the next that is shown
        assert len(packets_of(other)) == 34
    decoded = decode_video(other, size=None)
    assert (len(decoded.frames_THWC), decoded.note) == (31, "")
    spoil(other, 20)
    assert "missing (damaged)" in decode_video(other, size=None).note


def test_repeated_pictures_of_mpeg4_are_no_loss(small_video: SmallVideo) -> None:
    video = small_video("a.avi", frames=20)
    # A P picture that is not coded: type 01, no second gone, marker, 5 bits of time, marker, 0; then stuffing.
    repeated = b"\0\0\1\xb6" + int("01" + "0" + "1" + "00000" + "1" + "0" + "01111", 2).to_bytes(2, "big")
    other = remux(
        video, "repeated.avi", lambda packets: itertools.chain.from_iterable((packet, repeated) for packet in packets)
    )
    assert len(packets_of(other)) == 40
    decoded = decode_video(other, size=None)
    assert (decoded.decoder, decoded.note) == ("pyav", "")
    assert len(decoded.frames_THWC) == len(read_with_pyav(other)) < 40


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv", "a.mpg", "a.nut"])
def test_the_delay_of_b_frames_is_no_loss(name: str, small_video: SmallVideo) -> None:
    codec = "mpeg2video" if name == "a.mpg" else "libx264"
    decoded = decode_video(small_video(name, codec=codec, b_frames=2, frames=33), size=None)
    assert (len(decoded.frames_THWC), decoded.note) == (33, "")


def test_a_stream_cut_in_front_of_an_open_group_is_no_loss(small_video: SmallVideo) -> None:
    import av

    video = small_video("a.mpg", codec="mpeg2video", b_frames=2, frames=40, gop=12)
    later = video.with_name("later.ts")
    with av.open(str(video)) as source, av.open(str(later), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        start = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[start:]:
            packet.stream = copy
            container.mux(packet)
    decoded = decode_video(later, size=None)
    assert decoded.note == ""
    assert len(decoded.frames_THWC) == len(packets) - start - 2, "its B-frames can be shown: the test shows nothing"


def test_longer_sound_does_not_make_the_film_short(small_video: SmallVideo) -> None:
    import av

    video = small_video("a.mkv", codec="libx264", frames=20)
    other = video.with_name("sound.mkv")
    with av.open(str(video)) as source, av.open(str(other), "w") as container:
        stream = source.streams.video[0]
        copy, sound = container.add_stream_from_template(stream), container.add_stream("aac", rate=8000)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
        for number in range(40):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, number * 1024
            container.mux(sound.encode(samples))
        container.mux(sound.encode())
    assert VideoReader(other, size=None).claimed_s > 5
    decoded = decode_video(other, size=None)
    assert (len(decoded.frames_THWC), decoded.note) == (20, "")
