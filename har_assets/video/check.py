"""Faults of the videos of a folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from har_assets.errors import HarError, VideoError
from har_assets.video.decode import VideoReader
from har_assets.video.walk import VIDEO_SUFFIXES, walk_files
from har_assets.video.workers import decode_many


@dataclass(frozen=True)
class VideoCheck:
    """Findings of decoding one video from its first frame to its last."""

    path: Path
    problem: str
    """Why it gives no frame; empty where it does."""
    frames: int = 0
    height: int = 0
    """Pixels, upright."""
    width: int = 0
    """Pixels, upright."""
    fps: float = 0.0
    """Frames a second; 0.0 where the file does not say."""
    decoder: str = ""
    note: str = ""
    """Oddities of a video that does give frames, such as 'ends early: …'."""

    @property
    def ok(self) -> bool:
        """Whether the video gives frames and nothing about it is odd."""
        return not self.problem and not self.note


def check_folder(
    folder: Path,
    *,
    workers: int | None = None,
    timeout_s: float = 120,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> list[VideoCheck]:
    """Decode every video below a folder from end to end; return one finding each, in the order of the paths.

    `progress` takes (videos done, videos in all) after each, `note` sentences about files that are left out.

    Raises:
        HarError: there is no such folder, or no video in it.

    """
    tree = walk_files(folder)
    paths = tree.videos
    for sentence in tree.notes():
        note(sentence)
    if not paths:
        raise HarError(f"There is no video below {folder} (looked for {', '.join(sorted(VIDEO_SUFFIXES))}).")
    return list(_in_order(paths, workers, timeout_s, progress))


def _in_order(
    paths: list[Path], workers: int | None, timeout_s: float, progress: Callable[[int, int], None]
) -> Iterator[VideoCheck]:
    found: dict[int, VideoCheck] = {}
    results = decode_many(paths, check_video, workers=workers, timeout_s=timeout_s)
    for done, (number, result) in enumerate(results, 1):
        found[number] = VideoCheck(paths[number], problem=str(result)) if isinstance(result, VideoError) else result
        progress(done, len(paths))
    yield from (found[number] for number in range(len(paths)))


def check_video(path: Path) -> VideoCheck:
    """Decode one video from end to end, a frame at a time.

    Raises:
        VideoError: it gives no frame.

    """
    reader = VideoReader(path, size=None)
    height = width = 0
    for frame_HWC in reader:
        height, width = frame_HWC.shape[:2]
    return VideoCheck(path, "", reader.num_source_frames, height, width, reader.fps, reader.decoder, reader.note)
