import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from har_assets.report.timeline import thumbnail
from har_assets.runtime.windows import film_sheet
from har_assets.video.decode import VideoReader, decode_video
from har_assets.video.orientation import of_matrix, upright
from har_assets.video.probe import probe
from har_assets_tests.video.conftest import read_with_pyav

SmallVideo = Callable[..., Path]

ONE = 1 << 16
MATRICES = [
    [*(a * ONE, b * ONE, 0), *(c * ONE, d * ONE, 0), *(0, 0, 1 << 30)]
    for a, b, c, d in [
        *((a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)),
        *((0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)),
    ]
]


def shown_by(matrix: list[int], stored_HWC: np.ndarray) -> np.ndarray:
    """Every stored point put where the matrix maps it: x' = a x + c y, y' = b x + d y."""
    a, b, c, d = (np.sign(matrix[place]) for place in (0, 1, 3, 4))
    y, x = np.mgrid[0 : stored_HWC.shape[0], 0 : stored_HWC.shape[1]]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    shown = np.zeros((down.max() + 1, across.max() + 1, 3), np.uint8)
    shown[down, across] = stored_HWC
    return shown


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_every_turn_and_mirror_is_undone(matrix: list[int], suffix: str, small_video: SmallVideo) -> None:
    video = small_video(f"a.{suffix}", codec="libx264", frames=4, matrix=matrix)
    stored = read_with_pyav(video)
    shown = np.stack([shown_by(matrix, frame) for frame in stored])
    reader = VideoReader(video, size=None)
    assert np.array_equal(np.stack(list(reader)), shown)
    assert (reader.height, reader.width) == shown.shape[1:3]
    assert reader.note == ""
    assert np.array_equal(upright(stored[0], probe(video).orientation), shown[0])


@pytest.mark.parametrize(
    "matrix",
    [
        [0] * 9,
        [ONE, 0, 0, 0, 0, 0, 0, 0, 1 << 30],  # FFmpeg's angle of this one is not a number
        [ONE, ONE, 0, ONE, ONE, 0, 0, 0, 1 << 30],
    ],
)
def test_a_matrix_that_flattens_the_picture_turns_nothing(matrix: list[int], small_video: SmallVideo) -> None:
    video = small_video("a.mp4", codec="libx264", frames=4, matrix=matrix)
    assert np.array_equal(decode_video(video, size=None).frames_THWC, read_with_pyav(video))


def test_what_is_no_quarter_turn_is_left_out_and_noted(small_video: SmallVideo) -> None:
    sine, cosine = round(ONE * np.sin(np.radians(100))), round(ONE * np.cos(np.radians(100)))
    matrix = [cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30]
    video = small_video("a.mp4", codec="libx264", frames=4, matrix=matrix)
    decoded = decode_video(video, size=None)
    assert np.array_equal(decoded.frames_THWC, [np.rot90(frame, 3) for frame in read_with_pyav(video)])
    assert "10 degrees" in decoded.note
    assert of_matrix(np.array(matrix, np.int32)).transposed


def test_matroska_says_it_in_its_projection(small_video: SmallVideo) -> None:
    video = small_video("a.mkv", codec="libx264", frames=4, matrix=MATRICES[5])
    assert np.array_equal(
        decode_video(video, size=None).frames_THWC, [shown_by(MATRICES[5], frame) for frame in read_with_pyav(video)]
    )


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("flip", ["", ":flip=horizontal"])
def test_a_message_of_h264_holds_for_the_whole_film(suffix: str, flip: str, small_video: SmallVideo) -> None:
    import av
    from av.bitstream import BitStreamFilterContext

    plain = small_video("plain.mp4", codec="libx264", frames=30, gop=12)
    said = plain.with_name(f"said.{suffix}")
    with av.open(str(plain)) as source, av.open(str(said), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        message = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:rotate=90{flip}", stream, copy)
        for packet in itertools.chain(source.demux(stream), [None]):
            if packet is not None and packet.dts is None:
                continue
            for changed in message.filter(packet):
                changed.stream = copy
                container.mux(changed)
    with av.open(str(said)) as container:
        turned = [any(data.type.name == "DISPLAYMATRIX" for data in frame.side_data) for frame in container.decode()]
    assert turned[0]
    assert not all(turned), "every frame says it: the test shows nothing"
    expected = [np.rot90(frame[:, ::-1] if flip else frame) for frame in read_with_pyav(said)]
    assert np.array_equal(decode_video(said, size=None).frames_THWC, expected)


def test_a_mirrored_phone_clip(shared_data: Path) -> None:
    plain, mirrored = (
        decode_video(shared_data / "cases" / "flips" / name, size=None) for name in ("plain.mp4", "hflip.mp4")
    )
    assert np.array_equal(mirrored.frames_THWC, plain.frames_THWC[:, :, ::-1])
    assert mirrored.note == plain.note == ""


def test_contact_sheet_andthumbnail_are_upright_too(small_video: SmallVideo) -> None:
    import io

    from PIL import Image

    video = small_video("a.mp4", codec="libx264", frames=25, gop=5, matrix=MATRICES[1])  # upside down, mirrored
    sheet = np.asarray(Image.open(io.BytesIO(film_sheet(video))))
    first = decode_video(video, size=(96, 128)).frames_THWC
    nearest = [np.abs(frame.astype(int) - sheet[:, :128]).mean() for frame in first]
    assert min(nearest) < 6 < np.abs(first[int(np.argmin(nearest))][::-1].astype(int) - sheet[:, :128]).mean()
    small = thumbnail(video, 0.0, 48)
    assert small is not None
    assert np.array_equal(small, decode_video(video, size=None).frames_THWC[0])
