"""One video file to upright RGB frames: decord where tests prove it, else PyAV, always in order from frame 0.

Why in order: decord's indexed reading gives other frames than asked on AVIs with B-frames, which is what
HMDB51 is made of, and its length counts packets, so it is one too high there. Reading on from frame 0 is
pixel-equal to PyAV; a test holds both facts.

Frames are scaled with swscale's bilinear kernel inside the decoder, by a rule of `har_assets.video.resize`.

Shapes: T frames, H height, W width, 3 colour channels in the order red, green, blue.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from har_assets.errors import VideoError
from har_assets.video.clock import FALLBACK_FPS, FrameClock
from har_assets.video.losses import Losses
from har_assets.video.orientation import Orientation, orientation_of
from har_assets.video.probe import VideoFacts, film_stream, open_container, probe, reason
from har_assets.video.resize import COVER, SHORT_SIDE, Fit
from har_assets.video.sampling import Frames, Sampling

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

MAX_HELD_BYTES = 64 << 20
"""Frames of one video that are held until decord is known to have given all; of a larger one PyAV reads all."""

Shown = tuple[float, Callable[[], Frames]]
"""The second at which a frame is shown, and what makes its picture, uint8 [height, width, 3]."""


@dataclass(frozen=True)
class VideoFrames:
    """The frames kept of one video, and what is known about it."""

    frames_THWC: Frames
    """uint8 [frames, height, width, 3], upright, RGB."""
    fps: float
    """Frames a second of the file; 0.0 where it does not say."""
    num_source_frames: int
    """Frames that the decoder gave, counted; `max_frames` may stop it earlier. Never a header's number."""
    decoder: str
    """'decord' or 'pyav'."""
    note: str
    """Empty, or what is odd: 'ends early: 28 frames decoded before the data became unreadable'."""


def decode_video(
    path: Path,
    *,
    size: tuple[int, int] | None,
    sampling: Sampling | None = None,
    resize: str = SHORT_SIDE,
    max_frames: int | None = None,
) -> VideoFrames:
    """Decode one video in order from its first frame.

    Args:
        path: the video file; its first video stream is read.
        size: (height, width) in pixels of the result; None keeps the stored size.
        sampling: the moments whose frames are kept; None keeps every frame of the file once.
        resize: a rule of `har_assets.video.resize`.
        max_frames: stop once this many frames are kept; None reads to the end.

    Returns:
        The kept frames. Memory holds these and a few more, however long the file.

    Raises:
        VideoError: the file yields no frame; the message is the reason.
        ValueError: max_frames or size below 1, or a rule that there is not.

    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, not {max_frames}")
    reader = VideoReader(path, size=size, sampling=sampling, resize=resize)
    kept = list(islice(reader, max_frames))
    return VideoFrames(np.stack(kept), reader.fps, reader.num_source_frames, reader.decoder, reader.note)


class VideoReader:
    """Iterate once over the kept frames of a video, each uint8 [height, width, 3], not to be written to.

    `fps`, `height`, `width`, `start_s` and `claimed_s` (see `VideoFacts`) are known from the start,
    `num_source_frames`, `decoder` and `note` are final when the iteration ends. Arguments and errors are those of
    `decode_video`; VideoError comes from the constructor or with the first frame, never later.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: tuple[int, int] | None,
        sampling: Sampling | None = None,
        resize: str = SHORT_SIDE,
    ) -> None:
        self._facts = probe(path)
        self._fit = Fit(size, resize)
        self._sampling = sampling
        self.fps = self._facts.fps
        self.start_s = self._facts.start_s
        self.claimed_s = self._facts.claimed_s
        self.height, self.width = self._facts.height, self._facts.width
        """Size of the stored picture, pixels, upright."""
        self.num_source_frames = 0
        self.decoder = ""
        self.note = ""
        self._why_no_frame = ""
        self._fell_short = False

    def __iter__(self) -> Iterator[Frames]:
        yield from self._all_by_decord() or self._by_pyav()
        self._require_frames()
        if self._fell_short and not self.note:
            self._add_note("decord did not give every frame, so PyAV has read the file")
        self._note_low_rate()

    def _by_pyav(self) -> Iterator[Frames]:
        self.decoder = "pyav"
        return (picture() for picture in self._kept(self._read_pyav()))

    def _all_by_decord(self) -> list[Frames]:
        """The kept frames, if decord reads the file and gives each frame that its index lists; else none.

        They are held until the last has come, as decord drops frames at an error, more or fewer by chance.
        """
        facts = self._facts
        height, width = self._fit.size or (facts.height, facts.width)
        repeats = 1.0 if self._sampling is None or self.fps <= 0 else max(1.0, 1 / (self.fps * self._sampling.step_s))
        if not 0 < facts.decord_frames * repeats * height * width * 3 <= MAX_HELD_BYTES:
            return []
        kept = [picture() for picture in self._kept(self._read_decord())]
        if self.num_source_frames == facts.decord_frames:
            self.decoder = "decord"
            return kept
        self.num_source_frames = 0
        self._fell_short = True
        return []

    def _kept(self, shown: Iterable[Shown]) -> Iterator[Callable[[], Frames]]:
        """The frames that the sampling keeps; the others are decoded, as later ones need them, but not copied."""
        if self._sampling is None:
            return (picture for _, picture in shown)
        return self._sampling.pick(shown, 1 / self.fps if self.fps > 0 else self._sampling.step_s)

    def _note_low_rate(self) -> None:
        if self._sampling is None or self.num_source_frames < 2 or self.fps <= 0:
            return
        wanted = 1 / self._sampling.step_s
        if self.fps < 0.99 * wanted:
            self._add_note(f"{self.fps:g} frames a second, fewer than the {wanted:g} that are looked at: some repeat")

    def _add_note(self, note: str) -> None:
        self.note = "; ".join(filter(None, (self.note, note)))

    def _require_frames(self) -> None:
        if self.num_source_frames == 0:
            raise VideoError(self._why_no_frame)

    def _read_decord(self) -> Iterator[Shown]:
        """Every frame, shown at its number divided by the rate: an AVI says no more."""
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        facts = self._facts
        scaled = self._fit.scaled(facts.height, facts.width, facts.pixel_aspect)
        height, width = scaled or (-1, -1)
        interval_s = 1 / (facts.fps if facts.fps > 0 else FALLBACK_FPS)

        def picture(frame: Any) -> Frames:
            return self._fit.cut(frame.asnumpy())

        # At the end, and where frames are missing, decord raises one or another of these.
        with contextlib.suppress(StopIteration, decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError):
            reader = decord.VideoReader(
                os.fspath(facts.path),
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
                self.num_source_frames += 1
                yield (self.num_source_frames - 1) * interval_s, partial(picture, frame)

    def timed(self, *, threads: int = 1) -> Iterator[Shown]:
        """Every frame of the file in order, with the second at which it is shown.

        Instead of the plain iteration; the sampling plays no part. Seconds count from the start of the file as a
        player shows it and never go back. The picture, uint8 [height, width, 3], is scaled when it is called
        for, so a frame that nobody wants costs its decoding only; VideoError where it cannot be scaled.
        PyAV reads all files here. More threads give the same frames of a sound file sooner; an AVI is read by one,
        as the times of its packets are lost with more.
        """
        self.decoder = "pyav"
        yield from self._read_pyav(threads)
        self._require_frames()

    def _read_pyav(self, threads: int = 1) -> Iterator[Shown]:
        import av

        def picture(frame: "VideoFrame") -> Frames:
            try:
                return resizer(frame)
            except av.FFmpegError as error:
                raise VideoError(f"a frame cannot be scaled ({error.strerror})") from None

        facts = self._facts
        resizer = _Resizer(self._fit, facts)
        clock = FrameClock(facts.container, facts.start_s, self.fps)
        for frame in self._av_frames(1 if clock.takes_packet_times else threads):
            self.num_source_frames += 1
            stamp = frame.dts if clock.takes_packet_times else frame.pts
            stamp_s = None if stamp is None or frame.time_base is None else float(stamp * frame.time_base)
            yield clock.time_s(stamp_s), partial(picture, frame)
        self._add_note(clock.note)
        if not facts.has_times and self.fps <= 0:
            self._add_note(f"the file does not say how many frames a second it has; {FALLBACK_FPS:g} are assumed")
        if facts.orientation.oblique_degrees:
            self._add_note(
                f"its header turns it by {facts.orientation.oblique_degrees} degrees more, which is left out"
            )

    def _av_frames(self, threads: int) -> "Iterator[VideoFrame]":
        """The decoded frames; damaged packets are left out, and the note says how many."""
        given = 0
        for frame in self._decoded(threads):
            if frame is None:
                # With several threads, finished frames are lost at an error: one reads the file again.
                yield from filter(None, islice(self._decoded(1), given, None))
                return
            yield frame
            given += 1  # noqa: SIM113 - counts what was handed out

    def _decoded(self, threads: int) -> "Iterator[VideoFrame | None]":
        """Every frame that can be decoded; None at the first error of more than one thread, which is the end."""
        import av
        from av.codec.context import Flags

        with contextlib.ExitStack() as stack:
            try:
                container = stack.enter_context(open_container(self._facts.path))
            except av.FFmpegError as error:
                raise VideoError(reason(error, self._facts.path)) from None
            stream = film_stream(container)
            losses = Losses(container, stream)
            stream.thread_count = threads
            if threads > 1:
                stream.thread_type = "AUTO"
            if stream.codec_context.name == "hevc":  # which leaves out all that builds on damage otherwise
                stream.codec_context.flags |= Flags.output_corrupt
            try:
                for packet in container.demux():
                    losses.packet(packet)
                    if packet.stream is not stream:
                        continue
                    try:
                        frames = stream.decode(packet)
                    except av.FFmpegError:
                        if threads > 1:
                            yield None
                            return
                        losses.error(packet)
                        continue
                    for frame in frames:
                        losses.frame(frame)
                        yield frame
            except av.FFmpegError as error:
                losses.stopped(error)
            self.note, self._why_no_frame = losses.note(), losses.why_no_frame()


class _Resizer:
    """Turn a frame of PyAV upright, scale it as decord does, by the same filters, and cut its centre out."""

    def __init__(self, fit: Fit, facts: VideoFacts) -> None:
        self._fit = fit
        self._facts = facts
        self._made_for: tuple[Any, ...] = ()
        self._graph: Any = None

    def __call__(self, frame: "VideoFrame") -> Frames:
        orientation = orientation_of(frame, self._facts.orientation)
        made_for = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, orientation)
        if made_for != self._made_for:  # the picture size may change within a stream
            self._made_for = made_for
            self._graph = self._make_graph(frame, orientation)
        self._graph.push(frame)
        return self._fit.cut(self._graph.pull().to_ndarray())

    def _make_graph(self, frame: "VideoFrame", orientation: Orientation) -> Any:
        import av
        import av.filter

        height, width = orientation.size(frame.height, frame.width)
        if self._fit.size is None:
            self._fit = Fit((height, width), COVER)  # as the first frame is stored: every later one gets the same
        scaled_height, scaled_width = self._fit.scaled(height, width, self._facts.pixel_aspect) or (height, width)
        graph = av.filter.Graph()
        last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        for name, arguments in [
            *orientation.filters(),
            ("scale", f"{scaled_width}:{scaled_height}:flags=bilinear"),
            ("format", "pix_fmts=rgb24"),
            ("buffersink", ""),
        ]:
            node = graph.add(name, arguments) if arguments else graph.add(name)
            last.link_to(node)
            last = node
        graph.configure()
        return graph
