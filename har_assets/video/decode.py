"""One video file to upright RGB frames: decord first, PyAV second, always in order from frame 0.

Why in order: decord's indexed reading gives other frames than asked on AVIs with B-frames, which is what
HMDB51 is made of, and its length counts packets, so it is one too high there. Reading on from frame 0 is
pixel-equal to PyAV; a test holds both facts.

The resize rule is `cover`: scale with swscale's bilinear kernel inside the decoder, keeping the aspect of the
stored pixels, until the frame covers the wanted size, then cut the centre out.

Shapes: T frames, H height, W width, 3 colour channels in the order red, green, blue.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from har_assets.errors import VideoError
from har_assets.video.clock import FrameClock
from har_assets.video.probe import open_container, probe, quarter_turns
from har_assets.video.sampling import Frames

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Made = TypeVar("Made")


@dataclass(frozen=True)
class VideoFrames:
    """The frames kept of one video, and what is known about it."""

    frames_THWC: Frames
    """uint8 [frames, height, width, 3], upright, RGB."""
    fps: float
    """Frames a second of the file before `stride`; 0.0 where the file does not say."""
    num_source_frames: int
    """Frames that the decoder gave, counted; up to where `max_frames` stopped it. Never a header's number."""
    decoder: str
    """'decord' or 'pyav'."""
    note: str
    """Empty, or what is odd: 'ends early: 28 frames decoded before the data became unreadable'."""


def decode_video(
    path: Path, *, size: tuple[int, int] | None, stride: int = 1, max_frames: int | None = None
) -> VideoFrames:
    """Decode one video in order from its first frame.

    Args:
        path: the video file; its first video stream is read.
        size: (height, width) in pixels of the result, by the rule `cover`; None keeps the stored size.
        stride: keep frames 0, stride, 2·stride, … of the file.
        max_frames: stop once this many frames are kept; None reads to the end.

    Returns:
        The kept frames. Memory holds these and a few more, however long the file.

    Raises:
        VideoError: the file yields no frame; the message is the reason.
        ValueError: stride, max_frames or size below 1.

    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, not {max_frames}")
    reader = VideoReader(path, size=size, stride=stride)
    kept: list[Frames] = []
    for frame_HWC in reader:
        kept.append(frame_HWC)
        if len(kept) == max_frames:
            break
    return VideoFrames(np.stack(kept), reader.fps, reader.num_source_frames, reader.decoder, reader.note)


class VideoReader:
    """Iterate once over the kept frames of a video, each uint8 [height, width, 3] in memory of its own.

    `fps`, `height`, `width`, `start_s` and `claimed_s` (see `VideoFacts`) are known from the start,
    `num_source_frames`, `decoder` and `note` are final when the iteration ends. Arguments and errors are those of
    `decode_video`; VideoError comes from the constructor or with the first frame, never later.
    """

    def __init__(self, path: Path, *, size: tuple[int, int] | None, stride: int = 1) -> None:
        if stride < 1 or (size is not None and min(size) < 1):
            raise ValueError(f"stride and size must be at least 1, not {stride} and {size}")
        self._facts = probe(path)
        self._size = size
        self._stride = stride
        self.fps = self._facts.fps
        self.start_s = self._facts.start_s
        self.claimed_s = self._facts.claimed_s
        self.height, self.width = self._facts.height, self._facts.width
        """Size of the stored picture, pixels, upright."""
        self.num_source_frames = 0
        self.decoder = ""
        self.note = ""
        self._broke_off = False

    def __iter__(self) -> Iterator[Frames]:
        if not self._facts.why_not_decord:
            self.decoder = "decord"
            yield from self._keep(self._read_decord())
        if self.num_source_frames == 0 or self._broke_off:
            # decord's decoding thread drops finished frames at an error, more or fewer by chance: PyAV goes
            # on from there, so that a damaged file gives the same frames every time.
            self.decoder = "pyav"
            yield from self._keep(islice(self._read_pyav(), self.num_source_frames, None))
        self._require_frames()

    def _require_frames(self) -> None:
        if self.num_source_frames == 0:
            raise VideoError(
                "the data is unreadable before the first frame (damaged or cut off)"
                if self._broke_off
                else "the file has a header but no frame behind it (cut off)"
            )

    def _keep(self, frames: Iterator[Frames]) -> Iterator[Frames]:
        """Apply the stride; skipped frames are decoded, as later ones need them, but not copied."""
        for frame_HWC in frames:
            kept = self.num_source_frames % self._stride == 0
            self.num_source_frames += 1
            if kept:
                yield np.array(_centre_cut(frame_HWC, self._size))  # a copy: frees the uncut frame

    def _ended(self, num_packets: int) -> None:
        """Note frames that did not come. One or two are usual: the delay that B-frames cost in an AVI."""
        promised = max(num_packets, self._facts.header_frames)
        if promised > self.num_source_frames + 2:
            self.note = f"{self.num_source_frames} of {promised} frames could be decoded (damaged or cut off)"

    def _ends_early(self) -> None:
        self._broke_off = True
        self.note = f"ends early: {self.num_source_frames} frames decoded before the data became unreadable"

    def _read_decord(self) -> Iterator[Frames]:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        scaled = _cover(self._facts.height, self._facts.width, self._size)
        height, width = scaled or (-1, -1)
        try:
            reader = decord.VideoReader(
                os.fspath(self._facts.path),
                ctx=decord.cpu(0),
                width=width,
                height=height,
                num_threads=1,
                # Past the true end decord repeats the last frame until its packet count is reached, as it
                # does for frames it lost. With this tolerance it raises instead of handing out the first one.
                fault_tol=1e-9,
            )
            while True:
                frame = reader.next()
                if frame.shape[2] != 3:
                    # decord shows the padding of very narrow frames as further channels.
                    return
                yield frame.asnumpy()
        except StopIteration:
            self._ended(len(reader))
        except decord.DECORDLimitReachedError:
            self._ended(len(reader))
        except (decord.DECORDError, RuntimeError, AssertionError):
            self._ends_early()

    def timed(self, *, threads: int = 1) -> Iterator[tuple[float, Callable[[], Frames]]]:
        """Every frame of the file in order, with the second at which it is shown.

        Instead of the plain iteration; `stride` plays no part. Seconds count from the start of the file as a
        player shows it and never go back. The picture, uint8 [height, width, 3], is scaled when it is called
        for, so a frame that nobody wants costs its decoding only; VideoError where it cannot be scaled.
        PyAV reads all files here, as decord 0.6 knows no times while it reads in order. More threads give the same
        frames of a sound file sooner; an AVI is read by one, as the times of its packets are lost with more.
        """
        import av

        def picture(frame: "VideoFrame") -> Frames:
            try:
                return np.array(resizer(frame))
            except av.FFmpegError as error:
                raise VideoError(f"a frame cannot be scaled ({error.strerror})") from None

        self.decoder = "pyav"
        resizer = _Resizer(self._size)
        clock = FrameClock(self._facts.container, self._facts.start_s, self.fps)
        for frame in self._av_frames(lambda frame: frame, 1 if clock.takes_packet_times else threads):
            self.num_source_frames += 1
            stamp = frame.dts if clock.takes_packet_times else frame.pts
            stamp_s = None if stamp is None or frame.time_base is None else float(stamp * frame.time_base)
            yield clock.time_s(stamp_s), partial(picture, frame)
        self.note = "; ".join(filter(None, (self.note, clock.note)))
        self._require_frames()

    def _read_pyav(self) -> Iterator[Frames]:
        return self._av_frames(_Resizer(self._size))

    def _av_frames(self, function: "Callable[[VideoFrame], Made]", threads: int = 1) -> "Iterator[Made]":
        """The function's result for each frame; an error of PyAV ends the video there, with a note."""
        import av

        self.note, self._broke_off = "", False
        num_packets = 0
        try:
            with open_container(self._facts.path) as container:
                stream = container.streams.video[0]
                stream.thread_count = threads
                if threads > 1:
                    stream.thread_type = "AUTO"
                for packet in container.demux(stream):
                    num_packets += packet.size > 0
                    yield from map(function, packet.decode())
        except av.FFmpegError:
            self._ends_early()
            return
        self._ended(num_packets)


class _Resizer:
    """Turn a frame of PyAV upright, scale it as decord does, by the same filters, and cut its centre out."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self._size = size
        self._made_for: tuple[Any, ...] = ()
        self._graph: Any = None

    def __call__(self, frame: "VideoFrame") -> Frames:
        turns = quarter_turns(frame)
        made_for = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, turns)
        if made_for != self._made_for:  # the picture size may change within a stream
            self._made_for = made_for
            self._graph = self._make_graph(frame, turns)
        self._graph.push(frame)
        return _centre_cut(self._graph.pull().to_ndarray(), self._size)

    def _make_graph(self, frame: "VideoFrame", turns: int) -> Any:
        import av
        import av.filter

        height, width = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        if self._size is None:
            self._size = (height, width)  # of the first frame: every later one gets the same
        scaled_height, scaled_width = _cover(height, width, self._size) or (height, width)
        filters = {
            0: [],
            1: [("transpose", "cclock")],
            2: [("hflip", ""), ("vflip", "")],
            3: [("transpose", "clock")],
        }[turns]
        graph = av.filter.Graph()
        last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        for name, arguments in [
            *filters,
            ("scale", f"{scaled_width}:{scaled_height}:flags=bilinear"),
            ("format", "pix_fmts=rgb24"),
            ("buffersink", ""),
        ]:
            node = graph.add(name, arguments) if arguments else graph.add(name)
            last.link_to(node)
            last = node
        graph.configure()
        return graph


def _cover(height: int, width: int, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the (height, width) to scale to so that `size` is covered; None where size is None.

    Rounded up to even numbers, as swscale takes half as long again for an odd width (171 against 172).
    """
    if size is None:
        return None
    scale = max(size[0] / height, size[1] / width)
    if scale == 1:
        return height, width
    scaled = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    return scaled[0] + scaled[0] % 2, scaled[1] + scaled[1] % 2


def _centre_cut(frame_HWC: Frames, size: tuple[int, int] | None) -> Frames:
    if size is None:
        return frame_HWC
    top = (frame_HWC.shape[0] - size[0]) // 2
    left = (frame_HWC.shape[1] - size[1]) // 2
    return frame_HWC[top : top + size[0], left : left + size[1]]
