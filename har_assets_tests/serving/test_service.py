"""What a request may be, asked of the service without HTTP: right answers, limits, paths, dying decoders."""

import base64
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from har_assets.errors import HarError
from har_assets.runtime.video import predict_video
from har_assets.serving import service as module
from har_assets.serving.limits import ServingLimits
from har_assets.serving.service import BusyError, RequestError, VideoRow, VideoService
from har_assets_tests.serving.server import encoded


@pytest.fixture(scope="module")
def service(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoService]:
    """A service of a tiny network with two decoding processes; `path` is on."""
    made = VideoService(
        tiny_onnx,
        ServingLimits(max_video_bytes=20_000, max_rows=3, max_frames=20, max_windows=6, decode_timeout_s=5),
        runtime="onnxruntime_cpu",
        workers=2,
        folder=tmp_path_factory.mktemp("videos"),
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def clips(tiny_cache: Path) -> list[Path]:
    return sorted((tiny_cache / "videos").rglob("*.avi"))


def refusal(service: VideoService, *rows: VideoRow, **numbers: int) -> str:
    with pytest.raises(RequestError) as error:
        service.predict(rows, **numbers)
    return str(error.value)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_answer_is_that_of_predict_video(service: VideoService, clips: list[Path]) -> None:
    answers = service.predict([VideoRow(encoded(clip)) for clip in clips[:3]], top_k=3, windows=2)
    for clip, answer in zip(clips[:3], answers, strict=True):
        expected = predict_video(service.predictor, clip, windows=2, top=3)
        assert answer == {
            "labels": list(expected.labels),
            "scores": list(expected.scores),
            "windows": 2,
            "frames": expected.frames,
            "note": expected.note,
        }


def test_threads_get_their_own_answers(service: VideoService, clips: list[Path]) -> None:
    expected = [service.predict([VideoRow(encoded(clip))], top_k=1) for clip in clips[:8]]
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        found[number] = service.predict([VideoRow(encoded(clips[number]))], top_k=1)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(8)] == expected


@pytest.mark.parametrize(
    ("rows", "numbers", "words"),
    [
        ([], {}, "no rows with `video` or `path`: send 1 to 3 videos"),
        ([VideoRow("eA==")] * 4, {}, "has 4 rows with `video` or `path`: send 1 to 3 videos"),
        ([VideoRow("eA==")], {"windows": 0}, "windows is 0: choose 1 to 6"),
        ([VideoRow("eA==")], {"windows": 7}, "windows is 7: choose 1 to 6"),
        ([VideoRow("eA==")], {"top_k": 0}, "top_k is 0: choose 1 or more"),
        ([VideoRow()], {}, "Row 1 of 1: give either `video`, a file as base64, or `path`"),
        ([VideoRow("eA==", "x")], {}, "both `video` and `path` are given, choose one"),
        ([VideoRow(7)], {}, "`video` is of type int, not base64 text"),
        ([VideoRow("§§§§")], {}, "`video` is not base64: encode the file with `base64 -w0`"),
        ([VideoRow("eA=")], {}, "`video` is not base64"),
        ([VideoRow("eA==\neA==")], {}, "`video` is not base64: encode the file with `base64 -w0`"),
        ([VideoRow("")], {}, "`video` is empty"),
        ([VideoRow("A" * 40_000)], {}, "the video has 30,000 bytes, the limit is 20,000"),
        ([VideoRow("aGVsbG8=")], {}, "Row 1 of 1: the file is not a video that can be opened"),
    ],
)
def test_an_impossible_request_is_one_sentence(
    service: VideoService, rows: list[VideoRow], numbers: dict[str, int], words: str
) -> None:
    said = refusal(service, *rows, **numbers)
    assert words in said
    assert said.endswith(".")
    assert "\n" not in said


def test_one_bad_row_refuses_all_and_every_bad_one_is_named(service: VideoService, clips: list[Path]) -> None:
    said = refusal(service, VideoRow("§"), VideoRow(encoded(clips[0])), VideoRow("eA"))
    assert said.startswith("Row 1 of 3: `video` is not base64")
    assert "; row 3 of 3: `video` is not base64" in said
    assert "row 2" not in said


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_frames": 3}, "the video has more than 3 frames, the limit"),
        ({"max_seconds": 0.1}, "the video is longer than 0.1 s, the limit"),
        ({"max_pixels": 100}, "the picture is 24x20, 480 pixels; the limit is 100"),
    ],
)
def test_long_and_large_videos_are_refused(
    service: VideoService, clips: list[Path], monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(service, "limits", ServingLimits(**limits))
    assert words in refusal(service, VideoRow(encoded(clips[0])))


def test_a_path_is_read_below_the_folder_only(service: VideoService, clips: list[Path], tmp_path: Path) -> None:
    folder = service.folder
    assert folder is not None
    (folder / "deep").mkdir()
    (folder / "deep" / "clip.avi").write_bytes(clips[0].read_bytes())
    (folder / "inside.avi").symlink_to("deep/clip.avi")
    expected = service.predict([VideoRow(encoded(clips[0]))])
    for path in ("deep/clip.avi", str(folder / "deep" / "clip.avi"), "deep/../deep/clip.avi", "inside.avi"):
        assert service.predict([VideoRow(path=path)]) == expected

    secret = tmp_path / "secret.avi"
    secret.write_bytes(clips[0].read_bytes())
    (folder / "link.avi").symlink_to(secret)
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.avi")
    (folder / "large.avi").write_bytes(bytes(20_001))
    outside = "is not below the folder of videos"
    for path, words in {
        "../secret.avi": outside,
        str(secret): outside,
        f"deep/../../{tmp_path.name}/secret.avi": outside,
        "link.avi": outside,
        "out/secret.avi": outside,
        "/etc/passwd": outside,
        "absent.avi": "cannot be read: No such file or directory",
        "nul\0.avi": "cannot be read: the name is impossible",
        "x" * 5000: "cannot be read: File name too long",
        "deep": "is not a file",
        "pipe.avi": "is not a file",
        "large.avi": "the video has 20,001 bytes, the limit is 20,000",
    }.items():
        assert words in refusal(service, VideoRow(path=path)), path
    assert "is of type int, not text" in refusal(service, VideoRow(path=3))


def test_a_path_is_off_without_a_folder(
    service: VideoService, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "folder", None)
    assert "`path` is off on this server: send `video`" in refusal(service, VideoRow(path=str(clips[0])))


def decode_or_die(data: bytes, *arguments: Any) -> Any:
    """Stands for a decoder that some file takes down or holds up."""
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"hang":
        time.sleep(600)
    return DECODE(data, *arguments)


DECODE = module._decode


def test_a_decoder_that_dies_or_hangs_costs_its_request_only(
    service: VideoService, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = service.predict([VideoRow(encoded(clips[0]))])
    monkeypatch.setattr(module, "_decode", decode_or_die)
    crash, hang = VideoRow(base64_of(b"crash")), VideoRow(base64_of(b"hang"))
    assert "the decoder took its process down (SIGSEGV)" in refusal(service, crash)
    assert service.predict([VideoRow(encoded(clips[0]))]) == expected
    monkeypatch.setattr(service, "limits", ServingLimits(decode_timeout_s=0.5))
    assert "decoding took longer than the limit of 0.5 s" in refusal(service, hang)
    monkeypatch.setattr(service, "limits", ServingLimits(request_timeout_s=0.5))
    with pytest.raises(BusyError, match=r"not answered within 0.5 s, the limit: the server is busy"):
        service.predict([hang])
    monkeypatch.setattr(service, "limits", ServingLimits())
    assert service.predict([VideoRow(encoded(clips[0]))]) == expected


def test_killed_decoding_processes_are_replaced(service: VideoService, clips: list[Path]) -> None:
    expected = service.predict([VideoRow(encoded(clips[0]))])
    killed = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    assert killed
    for child in killed:
        child.kill()
    psutil.wait_procs(killed, timeout=10)
    assert service.predict([VideoRow(encoded(clips[0]))]) == expected


@pytest.mark.parametrize("value", [0, -1, "many", True, None])
def test_impossible_limits_are_one_sentence(value: Any) -> None:
    with pytest.raises(HarError, match=r"max_rows is .* choose a number above 0"):
        ServingLimits.from_config({"max_rows": value})


def test_a_folder_that_is_none_is_one_sentence(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(HarError, match="the folder of videos, cannot be used"):
        VideoService(tiny_onnx, folder=tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(HarError, match="is no folder: name one"):
        VideoService(tiny_onnx, folder=tmp_path / "file")
