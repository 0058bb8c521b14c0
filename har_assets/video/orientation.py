"""How a stored picture is turned and mirrored until it stands as it was filmed.

The display matrix says so, nine numbers of which four matter here: they map a stored point (x, y), y downwards, to the
shown one, x' = a·x + c·y and y' = b·x + d·y. FFmpeg hands it out with the frames, wherever it was written: in the
header of MP4 and MOV, in Matroska's projection, in the display-orientation message of H.264 and HEVC, in a JPEG's Exif.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from har_assets.video.sampling import Frames

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

TRANSPOSITIONS = {
    (False, False): "cclock_flip",
    (True, False): "clock",
    (False, True): "cclock",
    (True, True): "clock_flip",
}
"""FFmpeg's names of `transpose`, by whether columns and rows are reversed afterwards."""


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways in which a picture can lie; the transposition comes first."""

    transposed: bool = False
    columns_reversed: bool = False
    rows_reversed: bool = False
    oblique_degrees: int = 0
    """What the header asks for beyond quarter turns, which is left out."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a stored picture when it stands upright."""
        return (width, height) if self.transposed else (height, width)

    def filters(self) -> list[tuple[str, str]]:
        """Names and arguments of the filters of FFmpeg that turn a stored picture upright."""
        if self.transposed:
            return [("transpose", TRANSPOSITIONS[self.columns_reversed, self.rows_reversed])]
        return [("hflip", "")] * self.columns_reversed + [("vflip", "")] * self.rows_reversed


AS_STORED = Orientation()


def orientation_of(frame: "VideoFrame | None", otherwise: Orientation = AS_STORED) -> Orientation:
    """How the frame lies; `otherwise` where it does not say: a message of H.264 stands in the first frame alone."""
    if frame is None:
        return otherwise
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return otherwise if data is None else of_matrix(np.frombuffer(bytes(data), np.int32))


def of_matrix(matrix: "np.ndarray[tuple[int], np.dtype[np.int32]]") -> Orientation:
    """The nearest quarter turn and mirror to a display matrix; none where the matrix flattens the picture."""
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if a * d == b * c:
        return AS_STORED
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    right, down = (c, b) if transposed else (a, d)
    off = math.degrees(math.atan2(abs(a if transposed else b), abs(b if transposed else a)))
    return Orientation(transposed, right < 0, down < 0, round(off))


def upright(picture_HWC: Frames, orientation: Orientation) -> Frames:
    """Turn and mirror a picture [H, W, 3] that was made of a stored frame."""
    if orientation.transposed:
        picture_HWC = picture_HWC.swapaxes(0, 1)
    rows, columns = (
        slice(None, None, -1 if reverse else 1) for reverse in (orientation.rows_reversed, orientation.columns_reversed)
    )
    return np.ascontiguousarray(picture_HWC[rows, columns])
