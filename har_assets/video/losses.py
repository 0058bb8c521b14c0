"""Frames that a file promises and does not give, told from those that it hides or repeats by design.

No loss are packets that an edit list hides, frames that VP8 and VP9 never show, pictures in two fields, placeholders
of MPEG-4 for a repeated picture, and pictures before the first one that can be shown, as a cut leaves them. A header
rounds, so a few frames less than it claims are none either.
"""

import errno
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.packet import Packet
    from av.stream import Stream
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

MAX_ROUNDING = {"matroska,webm": 1.5, "avi": 2.5, "asf": 2.5, "flv": 2.5, "mxf": 2.5, "rm": 2.5, "nut": 2.5, "wtv": 2.5}
"""Frames by which a header may claim more than a sound file holds: delay of B-frames, rounding, a last frame counted
twice. The duration of other containers is no claim: it is reckoned from what is there."""

MAX_SOUND_PACKET_S = 0.5
"""Seconds of sound that one packet may hold; headers may count one more, or less. Subtitles are longer."""

TS_PACKETS = {188: 0, 192: 4, 204: 0}
"""Bytes of a packet of an MPEG transport stream, and how many stand before its G."""
TS_SYNCS = 5
"""Packets whose first byte has to be right."""
FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""Name of the object of a WMV or ASF file that says how long it is."""
SEGMENT = b"\x18\x53\x80\x67"
"""Name of the element that holds all of a Matroska file but its first header."""
MAX_JUNK = 8192
"""Bytes in which the first packet or element is looked for."""

MACHINE_ERRNOS = {errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT}
"""Errors of the disk, the memory, the system: the file may be sound."""


def of_the_machine(error: "FFmpegError", path: Path) -> bool:
    """Whether an error says nothing about the content of the file."""
    if error.errno != errno.EIO:
        return error.errno in MACHINE_ERRNOS
    # FFmpeg names this error for a file that is cut off, too: then its bytes can be read.
    try:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return True
    return False


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
        self._hidden = 0
        self._frames = 0
        self._damaged_frames = 0
        self._errors = 0
        self._error_before_first = False
        self._fields = False
        self._packed = False
        self._last_is_cut = False
        self._first_pts: int | None = None
        self._early_pts: list[int] = []
        self._end_s = 0.0
        self._sound_packet_s = 0.0
        self._stopped = ""
        self._machine_failed = False

    def packet(self, packet: "Packet[Stream]") -> None:
        """A packet was read, of whichever stream."""
        stamp = packet.dts if packet.pts is None else packet.pts
        if packet.size and stamp is not None:
            self._end_s = max(self._end_s, float((stamp + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not self._stream:
            duration_s = float((packet.duration or 0) * packet.time_base)
            if duration_s <= MAX_SOUND_PACKET_S:
                self._sound_packet_s = max(self._sound_packet_s, duration_s)
        if packet.stream is not self._stream or not packet.size:
            return
        self._packets += 1
        self._last_is_cut = packet.is_corrupt
        self._hidden += packet.is_discard
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

    def error(self, packet: "Packet[Stream]") -> None:
        """A packet could not be decoded."""
        self._errors += not packet.is_discard
        self._error_before_first |= self._frames == 0

    def stopped(self, error: "FFmpegError") -> None:
        """Reading had to end before the file did."""
        self._machine_failed = of_the_machine(error, Path(self._container.name))
        reason = f"could not be read further ({error.strerror})" if self._machine_failed else "became unreadable"
        self._stopped = f"ends early: {self._frames} frames decoded before the data {reason}"

    def why_no_frame(self) -> str:
        """The reason, in words, where no frame came."""
        if self._machine_failed:
            return self._stopped
        if self._stopped or self._errors or self._packets:
            return "the data is unreadable before the first frame (damaged or cut off)"
        return "the file has a header but no frame behind it (cut off)"

    def note(self) -> str:
        """Empty, or what is missing and why, in words; to be asked while the file is open."""
        missing = max(self._errors, self._missing_pictures())
        unread = max(0, self._unread())
        total = max(self._frames + missing + unread, self._stream.frames - self._hidden)
        cut_off = unread > 0 or self._last_is_cut or self._is_cut_off()
        reason = "damaged" if not cut_off else "damaged or cut off" if missing else "cut off"
        notes = []
        if self._stopped:
            notes.append(self._stopped)
        elif missing or unread:
            notes.append(
                f"{self._frames} of {total} frames could be decoded, {total - self._frames} missing ({reason})"
            )
        elif cut_off:
            notes.append(f"cut off: {self._frames} frames decoded, but the file should go on")
        if self._damaged_frames:
            notes.append(f"frames shown with damage: {self._damaged_frames}")
        return "; ".join(notes)

    def _pictures_of(self, packet: "Packet[Stream]") -> int:
        """Pictures that a packet holds for showing, no more than are certain."""
        if self._codec == "mpeg4":
            _, *pictures = bytes(packet).split(VOP)
            self._packed |= len(pictures) > 1
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
        delayed = (
            1 if self._packed else 0
        )  # the last B-frame comes with the placeholder after it, which a cut leaves out
        return max(0, self._pictures - leading - delayed - self._frames)

    def _unread(self) -> int:
        """Frames that the header claims beyond the last that was read."""
        name = self._container.format.name
        if name.startswith("mov"):
            return len(self._stream.index_entries) - self._packets
        if name == "avi":
            claimed_s = self._stream.frames * self._interval_s
        elif name == "asf":
            claimed_s = _claimed_by_asf(self._start_of_file()[0])
        elif name in MAX_ROUNDING:
            claimed_s = (self._container.duration or 0) / 1e6
        else:
            return 0
        reached_s = self._end_s - min(0.0, (self._container.start_time or 0) / 1e6)
        unread = (claimed_s - reached_s) / self._interval_s
        rounding = MAX_ROUNDING[name] + 1.5 * self._sound_packet_s / self._interval_s
        return round(unread) if unread > rounding else 0

    def _is_cut_off(self) -> bool:
        """Whether the file ends before its own structure does."""
        name = self._container.format.name
        if name not in {"mpegts", "matroska,webm"}:
            return False
        start, size = self._start_of_file()
        return _ends_inside_a_packet(start, size) if name == "mpegts" else size < _end_of_segment(start)

    def _start_of_file(self) -> tuple[bytes, int]:
        """The first bytes of the file, and how many it has."""
        with open(self._container.name, "rb") as file:
            return file.read(MAX_JUNK), file.seek(0, os.SEEK_END)


def _claimed_by_asf(start: bytes) -> float:
    """Seconds by the header of a WMV; 0.0 where it was sent live. FFmpeg does not tell them of a file that was cut."""
    at = start.find(FILE_PROPERTIES)
    if at < 0 or len(start) < at + 92:
        return 0.0
    ticks, _, preroll_ms, flags = struct.unpack_from("<QQQI", start, at + 64)
    return 0.0 if flags & 1 else max(0.0, ticks / 1e7 - preroll_ms / 1e3)


def _ends_inside_a_packet(start: bytes, size: int) -> bool:
    """Of an MPEG transport stream of `size` bytes, whose packets have one length."""
    for length, before_sync in TS_PACKETS.items():
        for first in range(max(0, len(start) - TS_SYNCS * length)):
            if start[first : first + TS_SYNCS * length : length] == b"G" * TS_SYNCS:
                return (size - first + before_sync) % length != 0
    return False


def _end_of_segment(start: bytes) -> int:
    """Byte at which the one segment of a Matroska file ends, by its header; 0 where that is left open."""
    at = start.find(SEGMENT) + len(SEGMENT)
    if at < len(SEGMENT) or at == len(start):
        return 0
    length = 9 - start[at].bit_length()  # the leading zero bits count the bytes of the number
    number = int.from_bytes(start[at : at + length], "big") & ((1 << 7 * length) - 1)
    return 0 if number == (1 << 7 * length) - 1 else at + length + number


def _is_hidden(codec: str, packet: "Packet[Stream]") -> bool:
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
