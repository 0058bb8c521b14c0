"""Frames that a file promises and does not give, told from those that it hides or repeats by design.

No loss are packets that an edit list hides, frames that VP8 and VP9 never show, pictures in two fields, placeholders
of MPEG-4 for a repeated picture, and pictures before the first one that can be shown, as a cut leaves them. A header
rounds, so a few frames less than it claims are none either.
"""

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PLACEHOLDER = 16
"""Bytes of a packet that may say no more than 'as before'."""

MAX_PLACEHOLDER_VOP = 10
"""Bytes of MPEG-4's picture that is not coded, its start code included."""

VOP = b"\0\0\1\xb6"
"""Start code of a picture of MPEG-4; packed B-frames are two in one packet."""

MAX_LEADING = 16
"""Pictures that a cut may leave in front of the first one that can be shown: they build on what was cut away."""

MAX_ROUNDING = 2.5
"""Frames by which headers claim more than sound files hold: delay of B-frames, rounding, a last frame counted twice."""

CLAIMING = {"matroska,webm", "asf", "flv", "mxf", "rm", "ivf", "nut", "wtv"}
"""Containers whose duration stands in the header; that of others is reckoned from what is there."""

MACHINE_ERRNOS = {errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT}
"""Errors of the disk, the memory, the system: the file may be sound."""


def of_the_machine(error: "FFmpegError | OSError") -> bool:
    """Whether an error says nothing about the file."""
    return error.errno in MACHINE_ERRNOS


class Losses:
    """Counts what passes by while a film is read: every packet of the file, the frames, the errors."""

    def __init__(self, container: "InputContainer", stream: "VideoStream") -> None:
        self._container = container
        self._stream = stream
        self._codec = stream.codec_context.name
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self._interval_s = 1 / rate if 0 < rate < 1000 else 0.04
        self._pictures = 0
        self._packets = 0
        self._frames = 0
        self._damaged_frames = 0
        self._errors = 0
        self._error_before_first = False
        self._fields = False
        self._last_is_cut = False
        self._first_pts: int | None = None
        self._early_pts: list[int] = []
        self._end_s = 0.0
        self._stopped = ""

    def packet(self, packet: "Packet[VideoStream]") -> None:
        """A packet was read, of whichever stream."""
        stamp = packet.dts if packet.pts is None else packet.pts
        if packet.size and stamp is not None:
            self._end_s = max(self._end_s, float((stamp + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not self._stream or not packet.size:
            return
        self._packets += 1
        self._last_is_cut = packet.is_corrupt
        if packet.is_discard:
            return
        pictures = self._pictures_of(packet)
        self._pictures += pictures
        if pictures and self._frames == 0 and packet.pts is not None:
            self._early_pts.append(packet.pts)

    def frame(self, frame: "VideoFrame") -> None:
        """A frame was decoded."""
        if self._frames == 0:
            self._first_pts = frame.pts
        self._frames += 1
        self._damaged_frames += frame.is_corrupt
        self._fields |= frame.interlaced_frame

    def error(self) -> None:
        """A packet could not be decoded, or a frame not be used."""
        self._errors += 1
        self._error_before_first |= self._frames == 0

    def stopped(self, error: "FFmpegError") -> None:
        """Reading had to end before the file did."""
        reason = f"could not be read further ({error.strerror})" if of_the_machine(error) else "became unreadable"
        self._stopped = f"ends early: {self._frames} frames decoded before the data {reason}"

    def note(self) -> str:
        """Empty, or what is missing and why, in words."""
        missing = max(self._errors, self._missing_pictures())
        unread = max(0, self._unread())
        notes = [self._stopped]
        if (missing or unread) and not self._stopped:
            total = self._frames + missing + unread
            reason = "damaged" if not unread else "cut off" if not missing else "damaged or cut off"
            notes.append(f"{self._frames} of {total} frames could be decoded, {missing + unread} are missing ({reason})")
        elif self._last_is_cut and not self._stopped:
            notes.append(f"{self._frames} frames decoded; the last is cut off in the middle, and what follows it")
        if self._damaged_frames:
            notes.append(f"{self._damaged_frames} frames are shown with damage")
        return "; ".join(filter(None, notes))

    def _pictures_of(self, packet: "Packet[VideoStream]") -> int:
        """Pictures that a packet holds for showing, no more than are certain."""
        if self._codec == "mpeg4":
            _, *pictures = bytes(packet).split(VOP)
            if pictures:
                return sum(len(picture) + len(VOP) > MAX_PLACEHOLDER_VOP for picture in pictures)
        if packet.size <= MAX_PLACEHOLDER:
            return 0
        return not _is_hidden(self._codec, packet)

    def _missing_pictures(self) -> int:
        if self._fields:
            return 0  # a picture may be one packet or two
        leading = 0
        if self._first_pts is not None and not self._error_before_first:
            leading = sum(pts < self._first_pts for pts in self._early_pts)
        if leading > MAX_LEADING:
            leading = 0
        return max(0, self._pictures - leading - self._frames)

    def _unread(self) -> int:
        """Frames that the header claims beyond the last that was read."""
        name = self._container.format.name
        if name.startswith("mov"):
            return len(self._stream.index_entries) - self._packets
        if name == "avi":
            claimed_s = self._stream.frames * self._interval_s
        elif name in CLAIMING:
            claimed_s = (self._container.duration or 0) / 1e6
        else:
            return 0
        reached_s = self._end_s - min(0.0, (self._container.start_time or 0) / 1e6)
        unread = (claimed_s - reached_s) / self._interval_s
        return round(unread) if unread > MAX_ROUNDING else 0


def _is_hidden(codec: str, packet: "Packet[VideoStream]") -> bool:
    """Whether a packet of VP8 or VP9 is one frame that is never shown, which later ones build on."""
    content = memoryview(packet)
    first = content[0]
    if codec in {"vp8", "libvpx"}:
        return not first >> 4 & 1
    if codec in {"vp9", "libvpx-vp9"}:
        if content[-1] >> 5 == 0b110:  # several frames in one: the last is shown
            return False
        down = first << 1 if first >> 4 & 3 == 3 else first  # profile 3 has a bit more
        shows_earlier_one, is_shown = down >> 3 & 1, down >> 1 & 1
        return not (shows_earlier_one or is_shown)
    return False
