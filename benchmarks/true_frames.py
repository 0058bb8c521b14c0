"""Frames of made files of many kinds, as `VideoReader` reads them, against ffmpeg's own of the same files.

    python -m benchmarks.true_frames [--keep FOLDER] [--only WORD] [--table FILE]

Needs ffmpeg on the PATH. Files of two seconds, 64x48 pixels, whose frames all differ. Compared are the number of
frames, their order, orientation and times, and the mean difference of their colours (0 to 255). A sound file has to be
equal and without a note; a damaged one needs a note, and each frame that it does give has to be among ffmpeg's.
"""

import argparse
import io
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from har_assets.errors import VideoError
from har_assets.video.clock import MAX_AVI_DELAY
from har_assets.video.decode import VideoReader
from har_assets.video.sampling import Frames

SECONDS = 2
HEIGHT, WIDTH = 48, 64

MAX_DIFFERENCE = 4.0
"""Two builds of FFmpeg convert to RGB differently where rows are odd; other frames of these films differ by 10."""
MAX_LATE_S = 0.0015
"""Time stamps of Matroska and FLV are whole milliseconds."""

MAX_DAMAGED = 0.4
"""Share of the frames of a damaged file that two builds of FFmpeg may mend differently."""

Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One made file."""

    group: str
    name: str
    """With the suffix of its container."""
    codec: tuple[str, ...]
    """ffmpeg's arguments that code it."""
    rate: str = "25"
    size: tuple[int, int] = (HEIGHT, WIDTH)
    before: tuple[str, ...] = ()
    """ffmpeg's arguments before the input."""
    again: tuple[tuple[str, ...], ...] = ()
    """Arguments of further runs of ffmpeg, each over the file before."""
    damage: Damage | None = None
    noted: bool = False
    """Its frames are not all there, and the note has to say so."""
    says: str = ""
    """A note that a sound file has to have."""
    silent: bool = False
    """It is damaged in a way that nothing in it shows: a note may be missing."""
    fewer: bool = False
    """Newer decoders refuse more of what builds on damage: fewer frames than ffmpeg's are right, if noted."""
    refused: bool = False
    """It holds no film, and the reader has to say so."""
    first_says: bool = False
    """Its message holds for the whole film by the standard; ffmpeg 5 turns those frames alone that carry it."""
    stored: bool = False
    """Compared with ffmpeg's frames before they are turned."""
    times: bool = True
    """Its container has presentation times, which are compared too."""


@dataclass
class Finding:
    """One line of the table."""

    case: Case
    verdict: str
    ours: int = 0
    theirs: int = 0
    difference: float = 0.0
    decoder: str = ""
    note: str = ""
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    """Make the files, compare, print the table; exit 1 where something is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--keep", type=Path, help="folder in which the files stay")
    arguments.add_argument("--only", default="", help="cases whose group or name holds this word")
    arguments.add_argument("--table", type=Path, help="Markdown page to write the table into")
    options = arguments.parse_args()
    if not shutil.which("ffmpeg"):
        raise SystemExit("There is no ffmpeg on the PATH; install it with the system's package manager.")
    began = time.perf_counter()
    findings = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for case in all_cases():
            if options.only in case.group or options.only in case.name:
                findings.append(examine(case, folder))
                print(line(findings[-1]), flush=True)
    wrong = sum(bool(finding.wrong) for finding in findings)
    print(f"\n{len(findings)} files, {wrong} wrong, {time.perf_counter() - began:.0f} s")
    if options.table:
        write_table(options.table, findings)
    if wrong:
        raise SystemExit(1)


# ------------------------------------------------------------------------------------ the matrix

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "12", "-g", "12")
OPEN_GOP = (*X264, "-bf", "3", "-x264-params", "open-gop=1:b-pyramid=normal")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "12", "-x265-params", "log-level=none")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "2")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-bf", "2")
VP8 = ("-c:v", "libvpx", "-b:v", "2M", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-arnr-maxframes", "7")
VP9 = ("-c:v", "libvpx-vp9", "-b:v", "2M", "-auto-alt-ref", "1", "-lag-in-frames", "20", "-deadline", "realtime")
AV1 = ("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-crf", "20", "-b:v", "0")
MJPEG = ("-c:v", "mjpeg", "-q:v", "2")

CODECS: dict[str, tuple[str, ...]] = {
    "h264": X264,
    "h264 open gop": OPEN_GOP,
    "hevc": X265,
    "mpeg4": MPEG4,
    "mpeg4 b": (*MPEG4, "-bf", "2"),
    "mpeg4 packed": ("-c:v", "mpeg4", "-q:v", "2", "-bf", "2", "-vtag", "DX50"),
    "xvid": ("-c:v", "libxvid", "-q:v", "2"),
    "msmpeg4": ("-c:v", "msmpeg4", "-q:v", "2"),
    "msmpeg4v2": ("-c:v", "msmpeg4v2", "-q:v", "2"),
    "mpeg1": ("-c:v", "mpeg1video", "-q:v", "2", "-bf", "2"),
    "mpeg2": MPEG2,
    "vp8": VP8,
    "vp9": VP9,
    "av1": AV1,
    "mjpeg": MJPEG,
    "wmv1": ("-c:v", "wmv1", "-q:v", "2"),
    "wmv2": ("-c:v", "wmv2", "-q:v", "2"),
    "flv1": ("-c:v", "flv", "-q:v", "2"),
    "theora": ("-c:v", "libtheora", "-q:v", "10"),
    "prores": ("-c:v", "prores_ks"),
    "ffv1": ("-c:v", "ffv1"),
    "huffyuv": ("-c:v", "huffyuv"),
    "utvideo": ("-c:v", "utvideo"),
    "png": ("-c:v", "png"),
    "raw": ("-c:v", "rawvideo"),
    "qtrle": ("-c:v", "qtrle"),
    "cinepak": ("-c:v", "cinepak"),
    "svq1": ("-c:v", "svq1", "-q:v", "2"),
    "h263+": ("-c:v", "h263p", "-q:v", "2"),
    "rv20": ("-c:v", "rv20", "-q:v", "2"),
    "zmbv": ("-c:v", "zmbv"),
    "flashsv": ("-c:v", "flashsv"),
    "jpeg2000": ("-c:v", "jpeg2000"),
    "magicyuv": ("-c:v", "magicyuv"),
    "gif": ("-c:v", "gif"),
    "snow": ("-c:v", "snow", "-strict", "-2"),
}
CONTAINERS: dict[str, tuple[str, ...]] = {
    "mp4": ("h264", "h264 open gop", "hevc", "mpeg4", "mpeg4 b", "vp9", "av1", "mjpeg", "mpeg2", "png"),
    "mov": ("h264", "hevc", "mpeg4", "mjpeg", "prores", "png", "qtrle", "cinepak", "svq1", "jpeg2000"),
    "m4v": ("h264", "mpeg4"),
    "3gp": ("h264", "mpeg4"),
    "avi": (
        "mpeg4",
        "mpeg4 b",
        "mpeg4 packed",
        "xvid",
        "msmpeg4",
        "msmpeg4v2",
        "h264",
        "mjpeg",
        "mpeg1",
        "mpeg2",
        "wmv2",
        "ffv1",
        "huffyuv",
        "utvideo",
        "png",
        "raw",
        "cinepak",
        "zmbv",
        "magicyuv",
        "vp8",
    ),
    "mkv": (
        "h264",
        "h264 open gop",
        "hevc",
        "mpeg4",
        "mpeg4 b",
        "mpeg2",
        "vp8",
        "vp9",
        "av1",
        "theora",
        "mjpeg",
        "prores",
        "ffv1",
        "huffyuv",
        "snow",
        "raw",
        "msmpeg4",
    ),
    "webm": ("vp8", "vp9", "av1"),
    "ts": ("h264", "h264 open gop", "hevc", "mpeg1", "mpeg2", "mpeg4"),
    "m2ts": ("h264", "mpeg2", "hevc"),
    "mpg": ("mpeg1", "mpeg2", "h264"),
    "vob": ("mpeg2",),
    "wmv": ("wmv1", "wmv2", "msmpeg4", "h264"),
    "asf": ("mpeg4", "mjpeg"),
    "flv": ("flv1", "h264", "flashsv"),
    "ogv": ("theora", "vp8"),
    "nut": ("h264", "mpeg4 b", "ffv1"),
    "mxf": ("mpeg2", "h264"),
    "rm": ("rv20",),
    "gif": ("gif",),
    "apng": ("png",),
    "h264": ("h264",),
    "hevc": ("hevc",),
    "m1v": ("mpeg1",),
    "m2v": ("mpeg2",),
    "mjpeg": ("mjpeg",),
    "ivf": ("vp8", "vp9", "av1"),
    "obu": ("av1",),
}
WRONG_TIMES = {("h264", "wmv"), ("h264", "mxf")}
"""ffmpeg writes them in the order of decoding."""
NO_TIMES = {"h264", "hevc", "m1v", "m2v", "mjpeg", "obu", "m4v_raw"}
EVEN_SIZES = {"rv20": (96, 128)}

PIXELS: list[tuple[str, str, tuple[str, ...]]] = [
    ("yuv420p_pc.mp4", "yuv420p", (*X264, "-color_range", "pc", "-vf", "scale=out_range=pc")),
    ("yuv420p_bt709.mp4", "yuv420p", (*X264, "-colorspace", "bt709", "-vf", "scale=out_color_matrix=bt709")),
    ("yuv422p.mp4", "yuv422p", X264),
    ("yuv444p.mp4", "yuv444p", X264),
    ("yuv420p10.mp4", "yuv420p10le", X264),
    ("yuv422p10.mkv", "yuv422p10le", X264),
    ("gray.mp4", "gray", X264),
    ("hevc_gray12.mkv", "gray12le", X265),
    ("hevc_420p12.mp4", "yuv420p12le", X265),
    ("hevc_pc.mp4", "yuv420p", (*X265, "-color_range", "pc", "-vf", "scale=out_range=pc")),
    ("rgb.mp4", "rgb24", ("-c:v", "libx264rgb", "-crf", "10")),
    ("vp9_444.webm", "yuv444p", VP9),
    ("vp9_10.webm", "yuv420p10le", VP9),
    ("vp8_alpha.webm", "yuva420p", ("-c:v", "libvpx", "-b:v", "2M", "-auto-alt-ref", "0")),
    ("mjpeg_422.avi", "yuvj422p", MJPEG),
    ("mjpeg_444.avi", "yuvj444p", MJPEG),
    ("mjpeg_420.mov", "yuvj420p", MJPEG),
    ("raw_yuv420p.avi", "yuv420p", ("-c:v", "rawvideo")),
    ("raw_yuyv.avi", "yuyv422", ("-c:v", "rawvideo")),
    ("raw_uyvy.mov", "uyvy422", ("-c:v", "rawvideo")),
    ("raw_nv12.avi", "nv12", ("-c:v", "rawvideo")),
    ("raw_bgr24.avi", "bgr24", ("-c:v", "rawvideo")),
    ("raw_bgra.avi", "bgra", ("-c:v", "rawvideo")),
    ("raw_rgb555.avi", "rgb555le", ("-c:v", "rawvideo")),
    ("raw_pal8.avi", "pal8", ("-c:v", "rawvideo")),
    ("raw_gray.avi", "gray", ("-c:v", "rawvideo")),
    ("raw_gray.mkv", "gray", ("-c:v", "rawvideo")),
    ("raw_gray.mov", "gray", ("-c:v", "rawvideo")),
    ("raw_monow.avi", "monow", ("-c:v", "rawvideo")),
    ("raw_rgb24.mov", "rgb24", ("-c:v", "rawvideo")),
    ("raw_rgb24.nut", "rgb24", ("-c:v", "rawvideo")),
    ("ffv1_gray.avi", "gray", ("-c:v", "ffv1")),
    ("ffv1_gray16.mkv", "gray16le", ("-c:v", "ffv1")),
    ("ffv1_bgr0.avi", "bgr0", ("-c:v", "ffv1")),
    ("ffv1_yuva.mkv", "yuva420p", ("-c:v", "ffv1")),
    ("ffv1_rgb48.mkv", "rgb48le", ("-c:v", "ffv1")),
    ("huffyuv_rgb.avi", "rgb24", ("-c:v", "huffyuv")),
    ("png_pal8.avi", "pal8", ("-c:v", "png")),
    ("png_pal8.mov", "pal8", ("-c:v", "png")),
    ("png_rgba.mov", "rgba", ("-c:v", "png")),
    ("png_gray.avi", "gray", ("-c:v", "png")),
    ("qtrle_gray.mov", "gray", ("-c:v", "qtrle")),
    ("qtrle_argb.mov", "argb", ("-c:v", "qtrle")),
    ("prores4444.mov", "yuva444p10le", ("-c:v", "prores_ks", "-profile:v", "4")),
    ("utvideo_rgb.avi", "gbrp", ("-c:v", "utvideo")),
    ("zmbv.avi", "bgr0", ("-c:v", "zmbv")),
    ("v210.mov", "yuv422p10le", ("-c:v", "v210")),
    ("r210.mov", "gbrp10le", ("-c:v", "r210")),
]

RATES = ["1", "8", "10", "12", "15", "24000/1001", "24", "30000/1001", "30", "48", "50", "60000/1001", "60", "120"]


def all_cases() -> list[Case]:
    """Every file of the matrix."""
    return [
        *containers_and_codecs(),
        *pixel_formats(),
        *rates(),
        *orientations(),
        *sizes(),
        *streams(),
        *sound_oddities(),
        *damages(),
    ]


def containers_and_codecs() -> list[Case]:
    """Every pair that a player would meet."""
    cases = []
    for container, codecs in CONTAINERS.items():
        for codec in codecs:
            name = f"{codec.replace(' ', '_').replace('+', 'p')}.{container}"
            arguments = CODECS[codec]
            if codec in {"mpeg4 packed"}:
                arguments = (*arguments, "-bsf:v", "mpeg4_unpack_bframes") if container != "avi" else arguments
            if container == "apng":
                arguments = ("-c:v", "apng", "-plays", "1")
            if container == "vob":
                arguments = (*arguments, "-f", "vob")
            cases.append(
                Case(
                    "container and codec",
                    name,
                    arguments,
                    size=EVEN_SIZES.get(codec, (HEIGHT, WIDTH)),
                    times=container not in NO_TIMES and (codec, container) not in WRONG_TIMES,
                    says="are assumed" if container in {"mjpeg", "obu"} else "",
                )
            )
    for other, size, made_by in [
        ("h263.3gp", (144, 176), ("-c:v", "h263", "-q:v", "2")),
        ("h261.avi", (144, 176), ("-c:v", "h261", "-q:v", "2")),
        ("rv10.rm", (144, 176), ("-c:v", "rv10", "-q:v", "2")),
        ("dv_pal.avi", (576, 720), ("-c:v", "dvvideo", "-pix_fmt", "yuv420p")),
        ("dv_pal.mov", (576, 720), ("-c:v", "dvvideo", "-pix_fmt", "yuv420p")),
        ("dv_pal.dv", (576, 720), ("-c:v", "dvvideo", "-pix_fmt", "yuv420p")),
        ("dnxhd.mov", (720, 1280), ("-c:v", "dnxhd", "-profile:v", "dnxhr_sq", "-pix_fmt", "yuv422p")),
        ("y4m.y4m", (HEIGHT, WIDTH), ("-pix_fmt", "yuv420p")),
        ("webp.webp", (HEIGHT, WIDTH), ("-c:v", "libwebp_anim", "-lossless", "1")),
        ("avif.avif", (HEIGHT, WIDTH), ("-c:v", "libaom-av1", "-cpu-used", "8")),
        ("mpeg4_raw.m4v", (HEIGHT, WIDTH), (*MPEG4, "-f", "m4v")),
    ]:
        cases.append(Case("container and codec", other, made_by, size=size, times=other != "mpeg4_raw.m4v"))
    return cases


def pixel_formats() -> list[Case]:
    """Ranges, matrices, depths, palettes, alpha."""
    return [
        Case("range and pixel format", name, (*(("-pix_fmt", pixels) if "-vf" not in codec else ()), *codec))
        if "-vf" not in codec
        else Case("range and pixel format", name, (*codec[:-1], f"{codec[-1]},format={pixels}"))
        for name, pixels, codec in PIXELS
    ]


def rates() -> list[Case]:
    """Constant and variable rates, by container."""
    cases = []
    for rate in RATES:
        for suffix, codec in [("mp4", X264), ("avi", MPEG4), ("mkv", OPEN_GOP), ("ts", X264), ("h264", X264)]:
            name = f"{rate.replace('/', '_')}fps.{suffix}"
            cases.append(Case("rate", name, codec, rate=rate, times=suffix not in NO_TIMES))
    vary = "setpts='(N+floor(N/10)*5)/25/TB'"
    for suffix, codec in [("mp4", X264), ("mkv", X264), ("ts", X264), ("webm", VP9), ("wmv", CODECS["wmv2"])]:
        cases.append(Case("rate", f"variable.{suffix}", (*codec, "-vf", vary, "-vsync", "vfr")))
    return cases


def orientations() -> list[Case]:
    """Eight orientations by the display matrix of MP4, MOV and by the message inside H.264."""
    cases = []
    for turn in (0, 90, 180, 270):
        for flip in ("", "horizontal", "vertical"):
            name = f"turn{turn}{flip and '_' + flip[0]}"
            for suffix in ("mp4", "mov"):
                cases.append(Case("orientation", f"{name}.{suffix}", X264, damage=display_matrix(turn, flip)))
            message = f"h264_metadata=display_orientation=insert:rotate={turn}" + (f":flip={flip}" if flip else "")
            for suffix in ("mkv", "ts", "h264", "mp4"):
                cases.append(
                    Case(
                        "orientation",
                        f"message_{name}.{suffix}",
                        X264,
                        again=(("-c", "copy", "-bsf:v", message),),
                        first_says=True,
                        times=suffix != "h264",
                    )
                )
    zero = Case("orientation", "zero_matrix.mp4", X264, damage=lambda path: write_matrix(path, [0] * 9))
    odd = Case(
        "orientation", "turn_by_3_degrees.mp4", X264, damage=display_matrix(3, ""), says="3 degrees", stored=True
    )
    other = Case("orientation", "turn90_hevc.mp4", X265, damage=display_matrix(90, ""))
    return [*cases, zero, odd, other]


def sizes() -> list[Case]:
    """Narrow, odd and large ones, and such that change."""
    cases = [
        Case("size", f"{width}x{height}.{suffix}", codec, size=(height, width))
        for height, width in [(9, 16), (16, 9), (2, 2), (8, 8), (47, 63), (64, 6), (6, 64), (240, 426), (1, 1), (1, 16)]
        for suffix, codec in [("avi", MPEG4), ("mkv", ("-c:v", "ffv1", "-pix_fmt", "yuv444p"))]
        if not (suffix == "avi" and min(height, width) < 2)
    ]
    for suffix, codec in [("mpg", MPEG2), ("ts", X264), ("h264", X264)]:
        larger = replace(Case("", f"larger.{suffix}", codec), size=(96, 128))
        says = {"mpg": "of 100 frames", "ts": "time stamps leap", "h264": ""}[suffix]
        cases.append(Case("size", f"changes.{suffix}", codec, damage=append(larger), times=False, says=says))
    return cases


def streams() -> list[Case]:
    """Covers, sound, several films."""
    cover = ("-f", "lavfi", "-i", "color=red:s=200x200:d=0.04")
    tone = ("-f", "lavfi", "-i", "sine=d=2")
    return [
        Case("streams", "sound.mp4", X264, again=((*tone, "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "aac"),)),
        Case("streams", "sound.mkv", X264, again=((*tone, "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "aac"),)),
        Case("streams", "sound.ts", X264, again=((*tone, "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "aac"),)),
        Case("streams", "sound.avi", MPEG4, again=((*tone, "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "mp2"),)),
        Case(
            "streams",
            "longer_sound.mkv",
            X264,
            again=(("-f", "lavfi", "-i", "sine=d=5", "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "aac"),),
        ),
        Case(
            "streams",
            "shorter_sound.mkv",
            X264,
            again=(("-f", "lavfi", "-i", "sine=d=1", "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "aac"),),
        ),
        *(
            Case(
                "streams",
                f"cover_{place}.{suffix}",
                codec,
                again=(
                    (
                        *(*cover, "-map", first, "-map", second, "-c", "copy", f"-c:v:{index}", "mjpeg"),
                        *(f"-disposition:v:{index}", "attached_pic"),
                    ),
                ),
            )
            for suffix, codec in [("mp4", X264), ("m4v", X264), ("mov", X264)]
            for place, first, second, index in [("first", "1", "0", 0), ("second", "0", "1", 1)]
        ),
        Case(
            "streams",
            "cover_attached.mkv",
            X264,
            again=(("-map", "0", "-c", "copy", "-attach", "COVER", "-metadata:s:t", "mimetype=image/jpeg"),),
        ),
        Case("streams", "two_films.mkv", X264, again=((*cover, "-map", "0", "-map", "1", "-c:v:0", "copy"),)),
        *(
            Case(
                "streams",
                f"only_sound_and_cover.{suffix}",
                (*X264, "-f", "matroska"),
                again=(
                    (
                        *(*tone, *cover, "-map", "1", "-map", "2", "-c:a", sound, "-c:v", "mjpeg"),
                        *("-disposition:v:0", "attached_pic"),
                    ),
                ),
                refused=True,
            )
            for suffix, sound in [("mp4", "aac"), ("m4a", "aac"), ("mp3", "mp3"), ("flac", "flac")]
        ),
    ]


def sound_oddities() -> list[Case]:
    """Files in which frames are hidden, repeated or late by design."""
    cut = ("-ss", "0.7")
    return [
        *(
            Case("sound but odd", f"cut_copy.{s}", OPEN_GOP, again=(("-c", "copy"),), before=cut)
            for s in ("mp4", "mov")
        ),
        *(
            Case("sound but odd", f"lossless_cut.{suffix}", codec, again=(("CUT", "0.7", "-c", "copy"),))
            for suffix, codec in [("mp4", OPEN_GOP), ("mov", MPEG4), ("mkv", X264), ("ts", OPEN_GOP), ("avi", MPEG4)]
        ),
        Case("sound but odd", "no_edit_list.mp4", (*OPEN_GOP, "-use_editlist", "0")),
        Case("sound but odd", "fragments.mp4", (*X264, "-movflags", "frag_keyframe+empty_moov")),
        Case("sound but odd", "faststart.mp4", (*X264, "-movflags", "faststart")),
        Case("sound but odd", "no_cues_no_duration.mkv", (*X264, "-live", "1")),
        Case("sound but odd", "no_duration.webm", (*VP9, "-live", "1")),
        Case("sound but odd", "no_duration.flv", (*X264, "-flvflags", "no_duration_filesize")),
        Case("sound but odd", "late_start.mp4", (*X264, "-output_ts_offset", "3")),
        Case("sound but odd", "late_start.mkv", (*X264, "-output_ts_offset", "3")),
        Case("sound but odd", "late_start.ts", (*X264, "-output_ts_offset", "30000")),
        Case("sound but odd", "wraps.ts", (*X264, "-output_ts_offset", "95442", "-muxdelay", "0")),
        Case("sound but odd", "repeated.avi", (*MPEG4, "-vf", "framestep=3", "-vsync", "cfr", "-r", "25")),
        Case("sound but odd", "empty_chunks.avi", (*MPEG4, "-vf", "setpts=3*PTS", "-vsync", "vfr")),
        Case("sound but odd", "xvid_not_coded.avi", ("-c:v", "libxvid", "-q:v", "2", "-vf", "framestep=5,fps=25")),
        Case("sound but odd", "still.mp4", (*X264, "-vf", "trim=end_frame=1,tpad=stop=49:stop_mode=clone")),
        Case("sound but odd", "one_frame.mp4", (*X264, "-frames:v", "1")),
        Case("sound but odd", "one_frame.mkv", (*X264, "-frames:v", "1")),
        Case("sound but odd", "one_frame.avi", (*MPEG4, "-frames:v", "1")),
        Case("sound but odd", "two_frames.ts", (*X264, "-frames:v", "2")),
        Case("sound but odd", "deep_b_pyramid.mp4", (*X264, "-bf", "8", "-b_strategy", "0", "-x264-params", "ref=8")),
        Case("sound but odd", "interlaced.ts", (*X264, "-flags", "+ildct+ilme", "-x264-params", "tff=1")),
        Case("sound but odd", "interlaced.mpg", (*MPEG2, "-flags", "+ildct+ilme")),
        Case("sound but odd", "telecined.mpg", (*MPEG2, "-vf", "telecine")),
        Case("sound but odd", "intra_refresh.ts", (*X264, "-x264-params", "intra-refresh=1")),
        Case("sound but odd", "junk_before.ts", X264, damage=lambda path: put_before(path, b"\0" * 1000)),
        Case("sound but odd", "junk_after.mp4", X264, damage=lambda path: put_after(path, b"junk" * 100)),
    ]


def damages() -> list[Case]:
    """Files cut off, and with bytes broken."""
    cases = []
    kinds: list[tuple[str, tuple[str, ...]]] = [
        ("avi", MPEG4),
        ("mkv", X264),
        ("webm", VP9),
        ("wmv", CODECS["wmv2"]),
        ("flv", X264),
        ("ts", X264),
        ("mpg", MPEG2),
        ("ogv", CODECS["theora"]),
        ("mxf", MPEG2),
        ("mov", MJPEG),
    ]
    silent = {"mpg", "ogv"}  # nothing in them claims a length
    for suffix, codec in kinds:
        arguments = (*codec, "-movflags", "faststart") if suffix == "mov" else codec
        for share in (0.3, 0.6, 0.95):
            name = f"cut_at_{share * 100:.0f}.{suffix}"
            only_index = share == 0.95 and suffix in {"avi", "wmv"}
            quiet = suffix in silent or only_index
            cases.append(Case("damage", name, arguments, damage=cut(share), noted=True, silent=quiet))
    for share in (0.3, 0.6):
        name = f"cut_at_{share * 100:.0f}.mp4"
        cases.append(Case("damage", name, (*X264, "-movflags", "faststart"), damage=cut(share), noted=True))
    cases.append(Case("damage", "cut_before_index.mp4", X264, damage=cut(0.6), refused=True))
    for suffix, codec in [
        ("mp4", X264),
        ("mkv", X264),
        ("avi", MPEG4),
        ("avi", MJPEG),
        ("mp4", X265),
        ("mkv", VP8),
        ("webm", VP9),
        ("mkv", AV1),
        ("mov", CODECS["png"]),
        ("avi", CODECS["huffyuv"]),
        ("wmv", CODECS["wmv2"]),
    ]:
        name = codec[1].replace("lib", "")
        for count, byte in ((1, b"\xff"), (3, b"\0")):
            cases.append(
                Case(
                    "damage",
                    f"{count}_bad_packets_{name}.{suffix}",
                    codec,
                    damage=spoil_packets(count, byte),
                    noted=True,
                    silent=name == "huffyuv",  # any bytes are a picture
                    fewer=codec == AV1,
                )
            )
    return cases


# ------------------------------------------------------------------------------------ making and breaking


def film(frames: int, size: tuple[int, int]) -> bytes:
    """RGB frames that have their number in them as bright and dark fields; no side of the picture is like another."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    pictures = []
    for number in range(frames):
        picture = np.stack(
            [x * 160 // max(width, 1), y * 160 // max(height, 1), np.full_like(x, 40 + number * 7 % 120)], axis=-1
        )
        bit = (number >> (x * 8 // max(width, 1))) & 1
        band = (y >= height // 3) & (y < height * 5 // 6)
        picture[band] = (picture + 90 * bit[..., None])[band]
        pictures.append(picture.astype(np.uint8))
    return np.stack(pictures).tobytes()


def make(case: Case, folder: Path) -> Path:
    """Write the file of a case."""
    path = folder / f"{case.group.replace(' ', '_')}__{case.name}"
    numerator, _, denominator = case.rate.partition("/")
    frames = max(2, round(SECONDS * int(numerator) / int(denominator or 1)))
    height, width = case.size
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", case.rate, *case.before)
    pixels = () if has_pixels(case.codec) else ("-pix_fmt", "yuv420p")
    run([*raw, "-i", "pipe:", *pixels, *case.codec, str(path)], film(frames, case.size))
    Image.new("RGB", (200, 200), "red").save(folder / "cover.jpg")
    for arguments in case.again:
        words = [str(folder / "cover.jpg") if word == "COVER" else word for word in arguments]
        before = ["-ss", words[1]] if words[0] == "CUT" else []
        after = path.with_name("after_" + path.name)
        inputs, outputs = split_inputs(words[len(before) :])
        run([*before, "-i", str(path), *inputs, *outputs, str(after)])
        after.replace(path)
    if case.damage:
        case.damage(path)
    return path


def has_pixels(codec: tuple[str, ...]) -> bool:
    """Whether the arguments choose a pixel format, or the codec has one of its own."""
    own = {"qtrle", "gif", "apng", "png", "zmbv", "flashsv", "prores_ks", "huffyuv", "cinepak", "svq1", "mjpeg", "v210"}
    own |= {"r210", "libx264rgb", "magicyuv", "libwebp_anim", "h261"}
    return "-pix_fmt" in codec or any("format=" in word for word in codec) or bool(own & set(codec))


def split_inputs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The part of the arguments up to the last input, and the rest."""
    last = max((number + 2 for number, word in enumerate(arguments) if word == "-i"), default=0)
    return arguments[:last], arguments[last:]


def run(arguments: list[str], content: bytes | None = None) -> bytes:
    """Run ffmpeg; what it writes to its output."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments]
    if content is not None:
        command.remove("-nostdin")
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-600:]}")
    return done.stdout


def display_matrix(turn: float, flip: str) -> Damage:
    """Write the matrix of a clockwise turn, after a flip, into the header of an MP4."""
    angle = np.radians(turn)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if flip:
        matrix = np.diag([-1, 1] if flip == "horizontal" else [1, -1]) @ matrix
    a, b, c, d = (round(float(value) * 65536) for value in matrix.ravel())
    return lambda path: write_matrix(path, [a, b, 0, c, d, 0, 0, 0, 1 << 30])


def write_matrix(path: Path, matrix: list[int]) -> None:
    """Nine numbers into each `tkhd` box of an MP4."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4
    start = at + (52 if content[at] else 40)
    content[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content)


def append(case: Case) -> Damage:
    """Put another film behind the file."""

    def do(path: Path) -> None:
        other = make(case, path.parent)
        put_after(path, other.read_bytes())
        other.unlink()

    return do


def put_before(path: Path, content: bytes) -> None:
    """Bytes before the file's own."""
    path.write_bytes(content + path.read_bytes())


def put_after(path: Path, content: bytes) -> None:
    """Bytes behind the file's own."""
    path.write_bytes(path.read_bytes() + content)


def cut(share: float) -> Damage:
    """Keep the first part of the file."""

    def do(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(int(path.stat().st_size * share))

    return do


def spoil_packets(count: int, byte: bytes) -> Damage:
    """Overwrite `count` packets in the middle of the file, each whole."""

    def do(path: Path) -> None:
        import av

        content = bytearray(path.read_bytes())
        with av.open(str(path)) as container:
            packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
        datas = []
        with av.open(str(path)) as container:
            datas = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        start = len(packets) // 2 + 1
        for (position, size), data in list(zip(packets, datas, strict=True))[start : start + count]:
            at = content.index(data[:32], max(0, position))
            content[at : at + size] = byte * size
        path.write_bytes(content)

    return do


# ------------------------------------------------------------------------------------ comparing


def examine(case: Case, folder: Path) -> Finding:
    """Make the file, read it twice, compare."""
    path = make(case, folder)
    theirs = frames_of_ffmpeg(path, *(("-noautorotate",) if case.stored else ()))
    if case.first_says:
        theirs = turned_like_the_first(theirs, frames_of_ffmpeg(path, "-noautorotate"))
    finding = Finding(case, "", theirs=len(theirs))
    try:
        reader = VideoReader(path, size=None)
        ours = list(reader)
    except VideoError as error:
        finding.note = str(error)
        finding.verdict = "refused"
        if theirs and not case.refused:
            finding.wrong.append("refused")
        return finding
    finding.ours, finding.decoder, finding.note = len(ours), reader.decoder, reader.note
    if case.refused:
        finding.wrong.append("not refused")
    finding.wrong += compare(ours, theirs, finding)
    if case.noted and not case.silent and not reader.note:
        finding.wrong.append("no note")
    if not case.noted and (case.says not in reader.note or bool(case.says) != bool(reader.note)):
        finding.wrong.append("called damaged")
    if not case.noted and case.times and not finding.wrong:
        finding.wrong += compare_times(path)
    finding.verdict = "noted" if reader.note else "equal"
    return finding


def turned_like_the_first(upright: list[Frames], stored: list[Frames]) -> list[Frames]:
    """All stored frames, turned and mirrored as the first one was."""
    for turns in range(4):
        for mirror in (False, True):
            moved = [np.rot90(frame[:, ::-1] if mirror else frame, turns) for frame in stored]
            if (
                moved[0].shape == upright[0].shape
                and np.abs(moved[0].astype(int) - upright[0]).mean() <= MAX_DIFFERENCE
            ):
                return moved
    return upright


def frames_of_ffmpeg(path: Path, *before: str) -> list[Frames]:
    """Every frame as ffmpeg shows it, upright."""
    command = ["ffmpeg", "-v", "error", "-nostdin", *before, "-i", str(path), "-map", "0:V:0", "-vsync", "passthrough"]
    command += ["-sws_flags", "bilinear", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"]
    content = io.BytesIO(subprocess.run(command, capture_output=True, check=False).stdout)
    frames = []
    while content.readline():
        width, height = map(int, content.readline().split())
        content.readline()
        frames.append(np.frombuffer(content.read(3 * height * width), np.uint8).reshape(height, width, 3))
    return frames


def compare(ours: list[Frames], theirs: list[Frames], finding: Finding) -> list[str]:
    """Everything that differs; of a damaged file, only more than the damage explains."""
    damaged = finding.case.noted
    if not theirs:
        return ["ffmpeg gives no frame"]
    if ours[0].shape != theirs[0].shape:
        return [f"shape {ours[0].shape[1]}x{ours[0].shape[0]}, not {theirs[0].shape[1]}x{theirs[0].shape[0]}"]
    wrong = []
    if len(ours) != len(theirs) and not (finding.case.fewer and finding.note):
        wrong.append(f"{len(ours)} frames, not {len(theirs)}")
    theirs_N = np.stack(theirs).astype(np.int16).reshape(len(theirs), -1)
    differences, misplaced = [], 0
    expected = 0
    for frame in ours:
        away_N = np.abs(theirs_N - frame.astype(np.int16).reshape(-1)).mean(axis=1)
        place = expected if expected < len(theirs) and away_N[expected] <= MAX_DIFFERENCE else int(away_N.argmin())
        misplaced += place != expected
        differences.append(float(away_N[place]))
        expected = place + 1
    finding.difference = float(np.mean(differences))
    different = sum(difference > MAX_DIFFERENCE for difference in differences)
    if different > (MAX_DAMAGED * len(ours) if damaged else 0):
        wrong.append(f"{different} frames differ, by up to {max(differences):.1f}" + turned(ours[0], theirs[0]))
    if misplaced > (MAX_DAMAGED * len(ours) if damaged else 0):
        wrong.append(f"{misplaced} frames out of order")
    return wrong


def turned(ours: Frames, theirs: Frames) -> str:
    """How the frame would have to be turned, where that is what is wrong."""
    for turns in range(4):
        for mirror in (False, True):
            other = np.rot90(ours[:, ::-1] if mirror else ours, turns)
            if (
                (turns or mirror)
                and other.shape == theirs.shape
                and np.abs(other.astype(int) - theirs).mean() <= MAX_DIFFERENCE
            ):
                return f": turned by {90 * turns} degrees" + (", mirrored" if mirror else "")
    return ""


def compare_times(path: Path) -> list[str]:
    """Seconds at which frames are shown, against ffprobe's."""
    command = ["ffprobe", "-v", "error", "-select_streams", "V:0", "-show_entries"]
    command += ["frame=best_effort_timestamp_time", "-of", "json", str(path)]
    frames = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["frames"]
    theirs = [float(frame.get("best_effort_timestamp_time", "nan")) for frame in frames]
    ours = [second for second, _ in VideoReader(path, size=None).timed()]
    if len(ours) != len(theirs):
        return [f"{len(ours)} times, not {len(theirs)}"]
    late = max(abs((a - ours[0]) - (b - theirs[0])) for a, b in zip(ours, theirs, strict=True))
    most = MAX_LATE_S if path.suffix != ".avi" else MAX_AVI_DELAY / 25
    return [] if late <= most else [f"a frame is shown {late:.3f} s late"]


# ------------------------------------------------------------------------------------ the table


def line(finding: Finding) -> str:
    """One line of the table."""
    cells = [
        finding.case.group,
        finding.case.name,
        f"{finding.ours} / {finding.theirs}",
        f"{finding.difference:.2f}",
        finding.decoder or "-",
        f"**WRONG**: {', '.join(finding.wrong)}" if finding.wrong else finding.verdict,
        finding.note or "",
    ]
    return "| " + " | ".join(cells) + " |"


def write_table(path: Path, findings: list[Finding]) -> None:
    """Replace what stands behind the mark in the page."""
    mark = "<!-- benchmarks.true_frames -->\n"
    before = path.read_text().partition(mark)[0] if path.exists() else ""
    head = "| kind | file | frames / ffmpeg's | mean difference | decoder | result | note |\n" + "|---" * 7 + "|\n"
    path.write_text(before + mark + head + "\n".join(map(line, findings)) + "\n")


if __name__ == "__main__":
    main()
