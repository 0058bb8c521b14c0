"""A timeline made visible: a copy of the film with the actions written on it, and a strip of thumbnails.

`write_annotated` and `write_strip` decode, so they are run by `har_assets.video.workers.DecoderProcess`: what they send
is how far they are, in seconds of the film, and at the end `Finished`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from har_assets.errors import HarError, VideoError
from har_assets.video.decode import VideoReader
from har_assets.video.orientation import upright
from har_assets.video.probe import film_stream, open_container, probe
from har_assets.video.sampling import Frames

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from matplotlib.axes import Axes

COLOURS = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#b07aa1",
    "#edc948",
    "#76b7b2",
    "#ff9da7",
    "#9c755f",
    "#6b8e23",
    "#1f6feb",
    "#a0522d",
    "#2f4b7c",
    "#d45087",
    "#00876c",
    "#8a6d3b",
)
"""One a label, those that last longest first."""

NOTHING = "#d0d4da"
"""Where no class reaches the threshold."""

MP4_AUDIO = {"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"}
"""Sound that an MP4 holds as it is; other sound is coded anew."""

TICKS_PER_SECOND = 90_000
"""Resolution of the annotated copy's time stamps: fine enough for any frame rate."""

SMALLEST_HEIGHT = 240
"""A smaller picture is enlarged, or the writing on it could not be read."""

THUMBNAILS = 12
THUMBNAIL_HEIGHT = 120
"""Pixels."""

MOST_FRAMES_TO_A_THUMBNAIL = 300
"""Frames that are decoded from the key frame before a thumbnail's moment towards it."""


@dataclass(frozen=True)
class Finished:
    """The end of the work."""

    note: str
    """Empty, or what is missing in the result."""


def label_colours(segments: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Label to colour, the labels in the order of the time they take, longest first."""
    seconds: dict[str, float] = {}
    for segment in segments:
        seconds[segment["label"]] = seconds.get(segment["label"], 0) + segment["end_s"] - segment["start_s"]
    ordered = sorted(seconds, key=lambda label: (-seconds[label], label))
    return {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(ordered)}


# ------------------------------------------------------------------------------------------ annotated copy
def write_annotated(connection: Connection, source: Path, timeline: dict[str, Any], target: Path) -> None:
    """Write an MP4 of the film with label and score of the moment on each frame, and its sound.

    Each frame is shown when it was; a bar at the bottom has the segments in their colours and how far it is. H.264 at
    the film's own size, sides made even; small pictures enlarged. Sound that an MP4 can hold is copied, other sound
    is coded as AAC.

    Args:
        connection: gets the seconds done, and `Finished`, whose note says where the sound is missing.
        source: the film.
        timeline: `Timeline.to_dict(windows=True)`.
        target: file to write, MP4 whatever its suffix.

    Raises:
        VideoError: the film gives no frame.
        HarError: the target cannot be written.
    """
    import av

    reader = VideoReader(source, size=None)
    captions = _Captions(timeline)
    rate = Fraction(reader.fps).limit_denominator(1001) if 1 <= reader.fps <= 240 else Fraction(25)
    said = time.monotonic()
    try:
        with av.open(str(target), "w", format="mp4") as container, contextlib.ExitStack() as stack:
            stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
            film = stack.enter_context(open_container(source))
            sound = _Sound(film, container, reader.start_s or 0.0)
            last_tick = -1
            for shown_s, picture in reader.timed():
                drawn_HWC = captions.draw(_even(_enlarged(picture())), shown_s)
                if last_tick < 0:
                    stream.height, stream.width = drawn_HWC.shape[:2]
                frame = av.VideoFrame.from_ndarray(drawn_HWC, format="rgb24")
                last_tick = max(last_tick + 1, round(shown_s * TICKS_PER_SECOND))
                frame.pts, frame.time_base = last_tick, Fraction(1, TICKS_PER_SECOND)
                sound.write_until(shown_s)
                container.mux(stream.encode(frame))
                if time.monotonic() - said > 0.5:
                    said = time.monotonic()
                    connection.send(shown_s)
            container.mux(stream.encode())
            sound.write_until(timeline["duration_s"])
    except (av.FFmpegError, OSError) as error:
        raise _not_written(error) from None
    connection.send(Finished(sound.note))


def _not_written(error: Exception) -> HarError:
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or str(error)
    if number == errno.ENOSPC:
        return HarError("There is no space left on the disk: free some there, or choose another folder.")
    if isinstance(error, OSError):
        return HarError(f"It cannot be written ({reason}): choose another folder.")
    return VideoError(f"its pictures or sound cannot be coded again ({reason})")


def _enlarged(frame_HWC: Frames) -> Frames:
    times = math.ceil(SMALLEST_HEIGHT / frame_HWC.shape[0])
    return frame_HWC.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else frame_HWC


def _even(frame_HWC: Frames) -> Frames:
    """Without the odd last row or column, which H.264 in yuv420p cannot have."""
    height, width = frame_HWC.shape[:2]
    return frame_HWC[: height - height % 2, : width - width % 2]


class _Captions:
    """The caption of each frame."""

    def __init__(self, timeline: dict[str, Any]) -> None:
        self._windows = timeline["windows"]
        self._threshold = timeline["threshold"]
        self._segments = timeline["segments"]
        self._duration_s = timeline["duration_s"]
        self._colours = label_colours(self._segments)
        self._window = 0
        self._bar: Frames | None = None
        self._box = lru_cache(maxsize=64)(self._make_box)

    def draw(self, frame_HWC: Frames, shown_s: float) -> Frames:
        """The frame with label, score and bar; a copy. Frames come in the order of time."""
        drawn_HWC = np.array(frame_HWC)
        height, width = drawn_HWC.shape[:2]
        while self._window + 1 < len(self._windows) and shown_s >= self._windows[self._window]["end_s"]:
            self._window += 1
        window = self._windows[self._window]
        bar_height = max(6, height // 40)
        if window["score"] >= self._threshold:
            box_HWC = self._box(window["label"], f"{window['score']:.0%}", height // 14, width)
            box_height, box_width = box_HWC.shape[:2]
            margin = height // 60
            top = height - bar_height - margin - box_height
            place = drawn_HWC[max(0, top) : top + box_height, margin : margin + box_width]
            place[:] = box_HWC[-place.shape[0] :, : place.shape[1]]
        if self._bar is None or self._bar.shape != (bar_height, width, 3):
            self._bar = self._make_bar(bar_height, width)
        drawn_HWC[-bar_height:] = self._bar
        reached = min(width - 1, int(shown_s / self._duration_s * width))
        drawn_HWC[-bar_height - 2 :, max(0, reached - 1) : reached + 2] = 255
        return drawn_HWC

    def _make_bar(self, height: int, width: int) -> Frames:
        bar_HWC = np.empty((height, width, 3), np.uint8)
        bar_HWC[:] = _rgb(NOTHING)
        for segment in self._segments:
            first, end = (round(segment[name] / self._duration_s * width) for name in ("start_s", "end_s"))
            bar_HWC[:, first:end] = _rgb(self._colours[segment["label"]])
        return bar_HWC

    def _make_box(self, label: str, score: str, size: int, width: int) -> Frames:
        """Label and score on a dark ground, beside the colour of the label; never wider than the picture."""
        from PIL import Image, ImageDraw

        text = f"{label.replace('_', ' ')}  {score}"
        font = _font(max(size, 9))
        left, _, right, _ = (round(edge) for edge in font.getbbox(text))
        ascent, descent = font.getmetrics()
        pad = max(2, size // 4)
        image = Image.new("RGB", (right - left + 4 * pad, ascent + descent + pad), "#16191d")
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, pad, image.height), fill=self._colours.get(label, NOTHING))
        draw.text((2 * pad + pad // 2 - left, pad // 2), text, font=font, fill="white")
        if image.width > width:
            image = image.resize((width, max(1, image.height * width // image.width)))
        return np.asarray(image)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib brings and which has more alphabets than Pillow's own."""
    from matplotlib.font_manager import findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


class _Sound:
    """The first sound track of a film, written beside the picture as far as that is."""

    def __init__(self, film: InputContainer, container: OutputContainer, start_s: float) -> None:
        self.note = ""
        """Empty, or from where on there is no sound, and why."""
        self._container = container
        self._start_s = start_s
        self._waiting: Packet | None = None
        self._packets: Iterator[Packet] = iter(())
        track = film.streams.audio[0] if film.streams.audio else None
        if track is None or track.codec_context is None:
            return
        if track.codec_context.name in MP4_AUDIO:
            self._packets = self._copied(film, track, container.add_stream_from_template(track))
        else:
            stream = container.add_stream("aac", rate=48_000, layout="mono" if track.channels == 1 else "stereo")
            self._packets = self._coded_anew(film, track, stream)

    def write_until(self, second: float) -> None:
        """Write what is heard up to then."""
        import av

        try:
            while True:
                if self._waiting is None:
                    self._waiting = next(self._packets, None)
                if self._waiting is None or self._waiting.dts * self._waiting.time_base > second:  # type: ignore[operator]
                    return
                packet, self._waiting = self._waiting, None
                self._container.mux(packet)
        except av.FFmpegError as error:
            if isinstance(error, OSError):  # the disk, not the sound
                raise
            self._packets, self._waiting = iter(()), None
            self.note = f"without sound from {second:.0f} s on ({error.strerror})"

    def _copied(self, film: InputContainer, track: AudioStream, stream: AudioStream) -> Iterator[Packet]:
        last = -math.inf
        for packet in film.demux(track):
            if packet.dts is None or packet.pts is None or not packet.time_base:
                continue
            shift = round(self._start_s / packet.time_base)
            if packet.pts >= shift and packet.dts > last and packet.pts >= packet.dts:  # an MP4 takes no others
                last = packet.dts
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                yield packet

    def _coded_anew(self, film: InputContainer, track: AudioStream, stream: AudioStream) -> Iterator[Packet]:
        for frame in film.decode(track):
            if frame.pts is not None and frame.time_base:
                frame.pts = max(0, frame.pts - round(self._start_s / frame.time_base))
            yield from stream.encode(frame)
        yield from stream.encode()


# --------------------------------------------------------------------------------------------------- strip
def write_strip(connection: Connection, source: Path, timeline: dict[str, Any], target: Path) -> None:
    """Write a PNG: thumbnails of the film in a row, below them its segments in their colours over the time.

    Args:
        connection: gets the seconds done, and `Finished`.
        source: the film.
        timeline: `Timeline.to_dict()`.
        target: file to write, PNG whatever its suffix.

    Raises:
        VideoError: the film cannot be opened.
        HarError: the target cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    duration_s = timeline["duration_s"]
    times_s = [duration_s * (number + 0.5) / THUMBNAILS for number in range(THUMBNAILS)]
    pictures = []
    for second in times_s:
        pictures.append(thumbnail(source, second, THUMBNAIL_HEIGHT))
        connection.send(second)
    colours = label_colours(timeline["segments"])
    figure = Figure(figsize=(15, 2.9), layout="constrained")
    figure.suptitle(_title(source, timeline), fontsize="medium", x=0.01, ha="left")
    above, below = figure.subplots(2, 1, height_ratios=(1.25, 0.6))
    above.imshow(_side_by_side(pictures), aspect="auto", extent=(0, duration_s, 0, 1), interpolation="antialiased")
    above.set_axis_off()
    for segment in timeline["segments"]:
        _draw_segment(below, segment, colours[segment["label"]], duration_s)
    below.set_xlim(0, duration_s)
    above.set_xlim(0, duration_s)
    below.set_ylim(0, 1)
    below.set_yticks([])
    below.set_facecolor(NOTHING)
    below.spines[["top", "right", "left"]].set_visible(False)
    locator = MaxNLocator(12, steps=[1, 1.5, 2, 3, 5, 6, 10]) if duration_s >= 2 else FixedLocator([0, duration_s])
    below.xaxis.set_major_locator(locator)
    tenths = duration_s < 12  # ticks stand on whole seconds otherwise
    below.xaxis.set_major_formatter(FuncFormatter(lambda second, _: clock_time(second, duration_s, tenths=tenths)))
    handles = [_patch(colour, label.replace("_", " ")) for label, colour in list(colours.items())[: len(COLOURS)]]
    handles.append(_patch(NOTHING, f"no action reaches {timeline['threshold']:.0%}"))
    figure.legend(handles=handles, loc="outside lower left", ncols=9, frameon=False, fontsize="small")
    try:
        figure.savefig(target, dpi=110, format="png")
    except OSError as error:
        raise _not_written(error) from None
    connection.send(Finished(""))


def clock_time(second: float, duration_s: float, *, tenths: bool = True) -> str:
    """`3725.5` -> `1:02:05.5` in a film of hours, `125.5` -> `2:05.5` in one of minutes."""
    count = round(second * 10) if tenths else round(second) * 10
    hours = f"{count // 36_000}:" if duration_s >= 3600 else ""
    minutes = f"{count // 600 % 60:02d}" if hours else f"{count // 600}"
    return f"{hours}{minutes}:{count // 10 % 60:02d}" + (f".{count % 10}" if tenths else "")


def _title(source: Path, timeline: dict[str, Any]) -> str:
    name = source.name.encode(errors="replace").decode()
    duration_s = timeline["duration_s"]
    count = len(timeline["segments"])
    # Dollar signs would start a formula.
    title = f"{name}: {count} segment{'s' if count != 1 else ''} in {clock_time(duration_s, duration_s)}"
    return title.replace("$", r"\$")


def _draw_segment(axes: Axes, segment: dict[str, Any], colour: str, duration_s: float) -> None:
    """A coloured box, its label inside where there is room for it."""
    start_s, width_s = segment["start_s"], segment["end_s"] - segment["start_s"]
    axes.barh(0.5, width_s, 1, start_s, color=colour, edgecolor="white", linewidth=0.5)
    label = segment["label"].replace("_", " ")
    if width_s / duration_s > 0.008 * (len(label) + 1):
        axes.text(
            start_s + width_s / 2,
            0.5,
            f"{label}\n{segment['score']:.0%}",
            ha="center",
            va="center",
            color=_text_colour(colour),
            fontsize="small",
            clip_on=True,
        )


def _text_colour(ground: str) -> str:
    """Black or white, whichever is easier to read on that ground."""
    red, green, blue = _rgb(ground)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 150 else "black"


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _side_by_side(pictures: Sequence[Frames | None]) -> Frames:
    """One row of equal tiles, white where there is no picture; wide pictures are cut at the sides."""
    width = THUMBNAIL_HEIGHT * 4 // 3
    tiles = []
    for picture in pictures:
        tile = np.full((THUMBNAIL_HEIGHT, width, 3), 255, np.uint8)
        if picture is not None:
            left = max(0, (picture.shape[1] - (width - 2)) // 2)
            cut = picture[:, left : left + width - 2]
            offset = (width - cut.shape[1]) // 2
            tile[:, offset : offset + cut.shape[1]] = cut
        tiles.append(tile)
    return np.concatenate(tiles, axis=1)


def thumbnail(source: Path, second: float, height: int) -> Frames | None:
    """The frame shown about then, uint8 [height, W, 3], upright; None where the film cannot be read there.

    From the key frame before that moment on, at most MOST_FRAMES_TO_A_THUMBNAIL frames further.
    """
    import av
    from PIL import Image

    facts = probe(source)
    found = None
    try:
        with open_container(facts.path) as container:
            stream = film_stream(container)
            wanted_s = second + (facts.start_s or 0)
            # A file that cannot be searched is read from its start.
            with contextlib.suppress(av.FFmpegError):
                container.seek(int(wanted_s * av.time_base))
            for number, frame in enumerate(container.decode(stream)):
                found = frame
                if number == MOST_FRAMES_TO_A_THUMBNAIL or (frame.time is not None and frame.time >= wanted_s):
                    break
    except av.FFmpegError:
        pass  # what came before the damage is shown
    if found is None:
        return None
    image = Image.fromarray(upright(found.to_ndarray(format="rgb24").astype(np.uint8), facts.orientation))
    return np.asarray(image.resize((max(1, round(image.width * height / image.height)), height)))
