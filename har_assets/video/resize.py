"""From the picture of a video to frames of one size.

A rule says how far the picture is scaled; what reaches beyond the frame is cut off on both sides alike.

    short_side    as it is displayed, until its short side is as long as the frame's; black fills up what is missing
                  then. A portrait video keeps its whole width.
    cover         until it covers the frame, with square pixels, whatever the file says of them. Models that were made
                  before there was a choice have this one.
"""

from dataclasses import dataclass

import numpy as np

from har_assets.video.sampling import Frames

SHORT_SIDE, COVER = "short_side", "cover"
RULES = (SHORT_SIDE, COVER)

ALIKE = 1.05
"""A picture whose shape is so near the frame's covers it, under every rule: no black line at its sides."""


@dataclass(frozen=True)
class Fit:
    """How pictures become frames of `size`."""

    size: tuple[int, int] | None
    """Height and width of a frame, pixels; None keeps the stored size."""
    rule: str = SHORT_SIDE

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"there is no resize rule {self.rule!r}: choose {' or '.join(RULES)}")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"a frame of {self.size[0]}x{self.size[1]} (height x width) has no pixel")

    def scaled(self, height: int, width: int, pixel_aspect: float = 1.0) -> tuple[int, int] | None:
        """(height, width) to scale an upright picture to; None where it keeps its size.

        Rounded up to even numbers, as swscale takes half as long again for an odd width (171 against 172).

        Args:
            height: of the stored picture, pixels.
            width: of the stored picture, pixels.
            pixel_aspect: width of a displayed pixel divided by its height.
        """
        if self.size is None:
            return None
        shown_width = width if self.rule == COVER else width * pixel_aspect
        scale = max(self.size[0] / height, self.size[1] / shown_width)
        least = list(self.size)
        if self.rule == SHORT_SIDE:
            short_scale = min(self.size) / min(height, shown_width)
            if scale > ALIKE * short_scale:
                scale, least = short_scale, [min(self.size)] * 2
        if scale == 1 and shown_width == width:
            return height, width
        scaled = max(least[0], round(height * scale)), max(least[1], round(shown_width * scale))
        return scaled[0] + scaled[0] % 2, scaled[1] + scaled[1] % 2

    def cut(self, picture_HWC: Frames) -> Frames:
        """The frame: the centre of a scaled picture, with black where it is too small; uint8 [size, 3], a copy."""
        if self.size is None:
            return np.array(picture_HWC)
        height, width = self.size
        top, left = (picture_HWC.shape[0] - height) // 2, (picture_HWC.shape[1] - width) // 2
        if min(top, left) >= 0:
            return np.array(picture_HWC[top : top + height, left : left + width])  # frees the uncut picture
        frame_HWC = np.zeros((height, width, 3), np.uint8)
        inner_HWC = picture_HWC[max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
        top, left = max(-top, 0), max(-left, 0)
        frame_HWC[top : top + inner_HWC.shape[0], left : left + inner_HWC.shape[1]] = inner_HWC
        return frame_HWC
