"""`har predict --timeline` as a command, and the files it writes."""

import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from har_assets.cli.app import app
from har_assets.cli.timeline import remove_left_overs
from har_assets.errors import HarError
from har_assets.report.timeline import _Sound, clock_time, label_colours
from har_assets_tests.conftest import TINY_LABELS
from har_assets_tests.project import REPOSITORY

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def write_noise(path: Path, frames: int, *, sound: str = "", seed: int = 0) -> Path:
    """Noise of 64x48, frame 10 a second late, and a tone in that coding."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        tone = container.add_stream(sound, rate=48_000, layout="mono") if sound else None
        for number in range(frames):
            picture = np.repeat(np.repeat(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), 8, 0), 8, 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number + 30 * (number >= 10), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            seconds = (frames + 30) / 30
            wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * 48_000)) / 48_000)
            for start in range(0, len(wave), 960):
                samples = av.AudioFrame.from_ndarray(
                    wave[None, start : start + 960].astype(np.float32), format="fltp", layout="mono"
                )
                samples.sample_rate, samples.pts, samples.time_base = 48_000, start, Fraction(1, 48_000)
                container.mux(tone.encode(samples))
            container.mux(tone.encode())
    return path


def har(*arguments: object, folder: Path, most_file_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if most_file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))

    return subprocess.run(
        [sys.executable, "-m", "har_assets.cli", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=200,
        preexec_fn=limit,
    )


def seconds_of_sound(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


@pytest.mark.parametrize(("name", "sound"), [("film [1].mp4", "aac"), ("film;$x.avi", "pcm_s16le"), ("film.mkv", "")])
def test_everything_is_written_and_says_the_same(tmp_path: Path, tiny_onnx: Path, name: str, sound: str) -> None:
    film = write_noise(tmp_path / name, 90, sound=sound)
    done = har(
        "predict",
        "--timeline",
        "--json",
        "--model",
        tiny_onnx,
        "--threshold",
        0.2,
        "--hop",
        0.5,
        "--out",
        "new/out",
        "--annotate",
        "--strip",
        name,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["video"] == name
    assert said["duration_s"] == pytest.approx(4, abs=0.04)
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        f"{name}.timeline.{ending}" for ending in ("csv", "json", "mp4", "png")
    ]
    written = json.loads((out / f"{name}.timeline.json").read_text())
    assert len(written.pop("windows")) == 8
    assert written == said
    with (out / f"{name}.timeline.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], float(row["start_s"])) for row in rows] == [
        (segment["label"], segment["start_s"]) for segment in said["segments"]
    ]
    assert {row["label"] for row in rows} <= set(TINY_LABELS)
    assert (out / f"{name}.timeline.png").read_bytes().startswith(b"\x89PNG")
    copy = out / f"{name}.timeline.mp4"
    with av.open(str(copy)) as container, av.open(str(film)) as original:
        frames = list(container.decode(video=0))
        sources = list(original.decode(video=0))
        assert bool(container.streams.audio) == bool(sound)
    assert len(frames) == 90
    assert (frames[0].height, frames[0].width) == (240, 320)  # enlarged: writing has to be readable
    assert [frame.time for frame in frames] == pytest.approx([frame.time for frame in sources], abs=0.04)
    drawn, plain = frames[20].to_ndarray(format="rgb24"), sources[20].to_ndarray(format="rgb24")
    plain = plain.repeat(5, axis=0).repeat(5, axis=1).astype(int)
    difference_HW = np.abs(drawn - plain).mean(axis=2)
    assert difference_HW[:180].mean() < 12  # the picture is as it was
    assert difference_HW[215:232, 6:60].mean() > 40  # and has writing on it
    if sound:
        assert seconds_of_sound(copy) == pytest.approx(seconds_of_sound(film), abs=0.1)


def test_a_table_for_people_and_a_bad_film_beside_a_good_one(tmp_path: Path, tiny_onnx: Path) -> None:
    write_noise(tmp_path / "film.mp4", 60)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    done = har("predict", "--timeline", "--model", tiny_onnx, "--threshold", 0, "bad.mp4", "film.mp4", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("bad.mp4: the file is not a video")
    lines = done.stdout.splitlines()
    assert lines[0] == "film.mp4"
    assert lines[1].split() == ["from", "to", "action", "score"]
    assert lines[2].split()[:1] == ["0:00.0"]
    assert lines[-1].startswith("an action for 0:03.0 of 0:03.0; windows of 0.13 s every 0.07 s")
    done = har("predict", "--timeline", "--csv", "--model", tiny_onnx, "--threshold", 1, "film.mp4", folder=tmp_path)
    assert done.stdout == "video,start_s,end_s,label,score,error\n"
    bad = har("predict", "--timeline", "--csv", "--model", tiny_onnx, "bad.mp4", folder=tmp_path)
    (row,) = csv.DictReader(io.StringIO(bad.stdout))
    assert (bad.returncode, row["video"], row["label"]) == (1, "bad.mp4", "")
    assert bad.stderr == f"bad.mp4: {row['error']}\n"
    bad = har("predict", "--timeline", "--json", "--model", tiny_onnx, "bad.mp4", folder=tmp_path)
    assert json.loads(bad.stdout) == {"video": "bad.mp4", "segments": [], "error": row["error"]}
    done = har("predict", "--timeline", "--csv", "--model", tiny_onnx, "--threshold", 0, "film.mp4", folder=tmp_path)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert float(rows[0]["start_s"]) == 0
    assert float(rows[-1]["end_s"]) == pytest.approx(3, abs=0.04)
    done = har("predict", "--timeline", "--model", tiny_onnx, "--threshold", 1, "film.mp4", folder=tmp_path)
    assert "No action reaches the threshold of 1; the highest score is 0." in done.stdout


def test_names_as_long_as_a_file_system_takes(tmp_path: Path, tiny_onnx: Path) -> None:
    names = [f"{letter * 230}{end}" for letter in "ab" for end in (".mp4", "-and-more.mp4", "-and-much-more-of-it.mp4")]
    names += [f"{'ü' * 125}.mp4", f"{'x' * 235}.mp4"]
    film = write_noise(tmp_path / "film.mp4", 30)
    for name in names:
        (tmp_path / name).hardlink_to(film)
    out = tmp_path / "out"
    done = har("predict", "--timeline", "--model", tiny_onnx, "--strip", "--out", "out", *names, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in out.iterdir()}
    assert len(written) == 3 * len(names)
    assert f"{'a' * 230}.mp4.timeline.json" in written  # a name that fits stays as it is
    assert {path.name[:100] for path in out.iterdir()} == {name[:100] for name in names}
    videos = {json.loads(path.read_text())["video"] for path in out.glob("*.json")}
    assert videos == set(names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hop", "1"], r"--hop is an option of --timeline: add --timeline or leave --hop out\."),
        (["--window", "2"], "--window is an option of --timeline"),
        (["--strip"], "--strip is an option of --timeline"),
        (["--timeline", "--windows", "4"], "--windows and --timeline exclude each other"),
        (["--timeline", "--top", "3"], "--top and --timeline exclude each other"),
        (["--timeline", "--workers", "2"], "--workers and --timeline exclude each other"),
        (["--timeline", "--annotate"], "--annotate writes a file and there is no --out"),
        (["--timeline", "--csv", "--json"], "--json and --csv exclude each other"),
        (["--timeline", "--out", "o", "below/film.mp4"], "film.mp4 and below/film.mp4 would both be written to o/film"),
        (["--timeline", "--out", "film.mp4/o"], r"Nothing can be written to film.mp4/o \(Not a directory\)"),
        (["--timeline", "--out", "taken"], "film.mp4.timeline.csv is a folder: choose another folder for --out"),
        (["--timeline", "--window", "0.1"], "shorter than the 0.13 s that this model looks at"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_that_names_the_options(
    tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    write_noise(tmp_path / "film.mp4", 3)
    (tmp_path / "taken" / "film.mp4.timeline.csv").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["predict", "--model", str(tiny_onnx), "film.mp4", *arguments])
    assert isinstance(done.exception, HarError)
    with pytest.raises(HarError, match=words):
        raise done.exception
    assert done.stdout == ""


def test_damaged_sound_costs_the_sound_only_and_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    def packets(error: av.FFmpegError) -> Iterator[Any]:
        yield from ()
        raise error

    with av.open(str(write_noise(tmp_path / "film.mp4", 3))) as film, av.open(str(tmp_path / "o.mp4"), "w") as target:
        sound = _Sound(film, target, 0.0)
        sound.write_until(1)
        assert sound.note == ""
        sound._packets = packets(av.error.InvalidDataError(1094995529, "Invalid data found"))
        sound.write_until(7)
        sound.write_until(9)
        assert sound.note == "without sound from 7 s on (Invalid data found)"
        sound._packets = packets(av.error.OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            sound.write_until(10)


def test_a_full_disk_leaves_whole_files_and_a_sentence(tmp_path: Path, tiny_onnx: Path) -> None:
    write_noise(tmp_path / "film.mp4", 300)
    done = har(
        "predict",
        "--timeline",
        "--model",
        tiny_onnx,
        "--out",
        "out",
        "--annotate",
        "film.mp4",
        folder=tmp_path,
        most_file_bytes=400_000,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: out/film.mp4.timeline.mp4 cannot be written (")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "film.mp4.timeline.csv",
        "film.mp4.timeline.json",
    ]


def test_ctrl_c_leaves_nothing_half(tmp_path: Path, tiny_onnx: Path) -> None:
    write_noise(tmp_path / "film.mp4", 3000)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "har_assets.cli",
            "predict",
            "--timeline",
            "--model",
            str(tiny_onnx),
            "--hop",
            "1",
            "--out",
            "out",
            "--annotate",
            "film.mp4",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    ends = time.monotonic() + 60
    while not any((tmp_path / "out").glob(".*.partial.mp4")):
        assert time.monotonic() < ends
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "film.mp4.timeline.csv",
        "film.mp4.timeline.json",
    ]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    old = tmp_path / f".a[1].mp4.timeline.{dead.pid}.partial.mp4"
    of_a_live_one = tmp_path / f".a[1].mp4.timeline.{os.getpid()}.partial.mp4"
    of_another = tmp_path / f".b.mp4.timeline.{dead.pid}.partial.mp4"
    for path in (old, of_a_live_one, of_another):
        path.touch()
        os.utime(path, (time.time() - 100, time.time() - 100))
    new = tmp_path / f".a[1].mp4.timeline.{dead.pid}.partial.png"
    new.touch()
    remove_left_overs(tmp_path, Path("films/a[1].mp4"))
    assert set(tmp_path.iterdir()) == {of_a_live_one, of_another, new}


def test_times_and_colours() -> None:
    assert [clock_time(second, 100) for second in (0, 59.96, 65.04)] == ["0:00.0", "1:00.0", "1:05.0"]
    assert clock_time(3725.5, 7200) == "1:02:05.5"
    assert clock_time(3725.4, 7200, tenths=False) == "1:02:05"
    segments = [
        {"label": label, "start_s": start_s, "end_s": end_s}
        for label, start_s, end_s in (("run", 0, 1), ("walk", 1, 4), ("run", 5, 6))
    ]
    assert list(label_colours(segments)) == ["walk", "run"]
    many = [{"label": str(number), "start_s": 0, "end_s": 1} for number in range(60)]
    assert len(label_colours(many)) == 60
