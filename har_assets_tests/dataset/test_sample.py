"""The built-in sample: its bytes, names, split lists, and the traps that it must set for decoders."""

import dataclasses
import hashlib
import io
import multiprocessing
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from har_assets.dataset import sample
from har_assets.dataset.sample import drawing, films, poses, rendering, takes, writing

PLAN = takes.plan()
BY_NAME = {take.name: take for take in PLAN}
SHORTEST = {
    label: min((take for take in PLAN if take.label == label), key=lambda take: take.frames)
    for label in sample.SAMPLE_CLASSES
}

HMDB51_NAME = re.compile(
    r"(?P<film>.+)_(?P<label>[a-z_]+)_(?P<part>[fhul])_(?P<camera>cm|nm)_np(?P<people>\d)"
    r"_(?P<viewpoint>fr|ba|le|ri)_(?P<quality>goo|med|bad)_(?P<number>\d+)\.avi"
)

# Of the clip below, with the locked packages. Equal frames and another file: the encoder has changed.
# Other frames: the drawing has. Either way SAMPLE_VERSION of sources/sample.py and data.dvc must change too.
PINNED_TAKE = SHORTEST["sit"]
PINNED_FRAME_SHA256 = "09b459f8781b01eacef410a48813bfc3bf37ca29734015b8d136cb8190d1b129"
PINNED_CLIP_SHA256 = "012612536e6a2bb468aee97b7d76faae39859fab7997298454bbcfc92c0b7b22"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pictures(take: takes.Take) -> np.ndarray:
    return np.stack(list(rendering.render(take)))


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "walk.avi"
    path.write_bytes(rendering.render_take(SHORTEST["walk"]))
    return path


class TestBytes:
    def test_a_frame_before_encoding_is_pinned(self):
        frame = list(rendering.render(PINNED_TAKE))[20]
        assert (frame.shape, frame.dtype) == ((360, 320), np.uint8)
        assert sha256(frame.tobytes()) == PINNED_FRAME_SHA256

    def test_an_encoded_clip_is_pinned(self):
        assert sha256(rendering.render_take(PINNED_TAKE)) == PINNED_CLIP_SHA256

    def test_no_version_of_the_encoder_is_written_into_the_file(self, clip_file):
        content = clip_file.read_bytes()
        assert b"Lavc" not in content
        assert b"Lavf" not in content

    def test_archives_do_not_depend_on_time_or_workers(self, tmp_path):
        chosen = [SHORTEST["run"], SHORTEST["sit"]]
        alone = writing.write_takes(chosen, tmp_path / "alone", 1, lambda _line: None)
        shared = writing.write_takes(chosen, tmp_path / "shared", 2, lambda _line: None)
        assert alone.archive.read_bytes() == shared.archive.read_bytes()
        assert alone.split_lists.read_bytes() == shared.split_lists.read_bytes()

    def test_luma_leaves_room_for_grain(self):
        for film in range(1, films.FILM_COUNT + 1):
            luma = films.backdrop_of(film).luma
            assert 16 < luma.min() <= luma.max() < 235
            grain = films.backdrop_of(film).grain
            assert abs(grain).max() == films.film_of(film).quality.grain < 16


class TestArchive:
    def test_is_an_archive_of_one_archive_a_class(self, tmp_path):
        chosen = [SHORTEST["run"], SHORTEST["sit"]]
        lines: list[str] = []
        files = writing.write_takes(chosen, tmp_path / "new" / "folder", 1, lines.append)
        assert files == sample.SampleFiles(
            tmp_path / "new" / "folder" / "hmdb51_sample.zip",
            tmp_path / "new" / "folder" / "hmdb51_sample_splits.zip",
        )
        with zipfile.ZipFile(files.archive) as outer:
            assert outer.namelist() == ["run.zip", "sit.zip"]
            with zipfile.ZipFile(io.BytesIO(outer.read("sit.zip"))) as inner:
                assert inner.namelist() == [f"sit/{SHORTEST['sit'].name}"]
                assert inner.testzip() is None
                entry = inner.infolist()[0]
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert entry.compress_type == zipfile.ZIP_STORED
        assert len(lines) == 2

    def test_an_error_half_way_leaves_nothing(self, tmp_path, monkeypatch):
        real = rendering.render_take

        def fails_on_sit(take):
            if take.label == "sit":
                raise KeyboardInterrupt
            return real(take)

        monkeypatch.setattr(writing, "render_take", fails_on_sit)
        with pytest.raises(KeyboardInterrupt):
            writing.write_takes([SHORTEST["run"], SHORTEST["sit"]], tmp_path, 1, lambda _line: None)
        assert list(tmp_path.iterdir()) == []

    def test_an_error_half_way_keeps_the_files_that_were_there(self, tmp_path, monkeypatch):
        for name in (writing.ARCHIVE_NAME, writing.SPLIT_LISTS_NAME):
            (tmp_path / name).write_bytes(b"before")

        def fails(_take):
            raise OSError("no space left")

        monkeypatch.setattr(writing, "render_take", fails)
        with pytest.raises(OSError, match="no space"):
            writing.write_takes([SHORTEST["run"]], tmp_path, 1, lambda _line: None)
        assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"before"}
        assert len(list(tmp_path.iterdir())) == 2

    def test_what_a_killed_run_left_is_cleared_away(self, tmp_path):
        process = multiprocessing.get_context("spawn").Process(target=int)
        process.start()
        process.join()
        (tmp_path / f".{writing.ARCHIVE_NAME}.{process.pid}.partial").write_bytes(b"half")
        writing.write_takes([SHORTEST["run"]], tmp_path, 1, lambda _line: None)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            writing.ARCHIVE_NAME,
            writing.SPLIT_LISTS_NAME,
        ]


class TestPlan:
    def test_size_and_lengths(self):
        assert Counter(take.label for take in PLAN) == dict.fromkeys(sample.SAMPLE_CLASSES, 30)
        assert {take.film for take in PLAN} == set(range(1, 13))
        assert all(30 <= take.frames <= 90 for take in PLAN)
        assert list(sample.SAMPLE_CLASSES) == sorted(sample.SAMPLE_CLASSES)

    def test_names_follow_the_scheme_of_hmdb51(self):
        assert len(BY_NAME) == len(PLAN)
        for take in PLAN:
            parsed = HMDB51_NAME.fullmatch(take.name)
            assert parsed, take.name
            assert parsed["film"] == f"SampleFilm{take.film:02d}"
            assert parsed["label"] == take.label
            assert parsed["quality"] == films.film_of(take.film).quality.tag

    @pytest.mark.parametrize("label", ["sit", "walk"])
    def test_the_camera_tag_is_true(self, label):
        for take in (take for take in PLAN if take.label == label and take.number == 0):
            looks = {rendering.view_of(take, frame)[1] for frame in range(take.frames)}
            assert ("_cm_" in take.name) == (len(looks) > 1), take.name

    def test_walking_and_running_differ_in_tempo_and_share_poses(self):
        hertz = {label: [take.tempo * 30 for take in PLAN if take.label == label] for label in ("walk", "run")}
        assert 0.8 <= min(hertz["walk"]) <= max(hertz["walk"]) <= 1.1
        assert 2.0 <= min(hertz["run"]) <= max(hertz["run"]) <= 2.6
        running = dataclasses.replace(SHORTEST["walk"], label="run")
        assert np.array_equal(pictures(running)[:5], pictures(SHORTEST["walk"])[:5])


@pytest.mark.parametrize(("forwards", "backwards"), [("sit", "stand"), ("catch", "throw")])
def test_one_action_is_the_other_played_backwards(forwards, backwards):
    take = next(take for take in PLAN if take.label == forwards and films.film_of(take.film).steady)
    there = pictures(take).astype(int)
    back = pictures(dataclasses.replace(take, label=backwards))[::-1].astype(int)
    grain = films.film_of(take.film).quality.grain
    assert np.array_equal(there[:, 240:], back[:, 240:])  # chroma, which has no grain
    assert abs(there[:, :240] - back[:, :240]).max() <= 2 * grain
    assert abs(there[0, :240] - there[-1, :240]).max() > 50  # and something moves


class TestSplitLists:
    LISTS = takes.split_lists(PLAN)

    @pytest.mark.parametrize("split", [1, 2, 3])
    def test_marks(self, split):
        marks: dict[str, int] = {}
        for label in sample.SAMPLE_CLASSES:
            for line in self.LISTS[f"testTrainMulti_7030_splits/{label}_test_split{split}.txt"].splitlines():
                name, mark = re.fullmatch(r"(\S+\.avi) ([012]) ", line).groups()
                assert BY_NAME[name].label == label
                assert name not in marks
                marks[name] = int(mark)
        assert marks.keys() == BY_NAME.keys()
        assert Counter(marks.values()) == {1: 152, 2: 80, 0: 8}
        films = {mark: {BY_NAME[name].film for name in marks if marks[name] == mark} for mark in (1, 2)}
        assert films[1].isdisjoint(films[2])
        assert len(films[2]) == 4

    def test_every_film_is_test_once(self):
        tested = Counter(film for split in (1, 2, 3) for film in takes.test_films(split))
        assert tested == dict.fromkeys(range(1, 13), 1)

    def test_three_lists_a_class(self):
        assert len(self.LISTS) == 3 * len(sample.SAMPLE_CLASSES)


class TestVideo:
    def test_format_is_that_of_hmdb51(self, clip_file):
        import av

        with av.open(str(clip_file)) as container:
            stream = container.streams.video[0]
            assert container.format.name == "avi"
            assert (stream.codec_context.name, stream.codec_context.codec_tag) == ("mpeg4", "DX50")
            assert (stream.width, stream.height, stream.average_rate) == (320, 240, 30)
            types = [int(frame.pict_type) for frame in container.decode(stream)]
        assert len(types) == SHORTEST["walk"].frames
        kinds = Counter(types)
        intra, predicted, bidirectional = 1, 2, 3
        assert set(kinds) == {intra, predicted, bidirectional}
        assert kinds[bidirectional] > len(types) / 2

    def test_decord_reads_wrong_frames_by_index_and_right_ones_in_order(self, clip_file):
        """The fault that decord has with HMDB51 must show here, or decoding is not put to the test."""
        import av
        import decord

        with av.open(str(clip_file)) as container:
            true = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)
        in_order = decord.VideoReader(str(clip_file), num_threads=1)
        read = np.stack([in_order.next().asnumpy() for _ in range(len(true))])
        # Equal up to the resampling of chroma, which the two libraries round differently.
        assert abs(read - true).max() <= 3
        asked = list(range(0, len(true), 7))
        by_index = decord.VideoReader(str(clip_file), num_threads=1).get_batch(asked).asnumpy().astype(int)
        nearest = [int(abs(true - got).mean((1, 2, 3)).argmin()) for got in by_index]
        assert nearest != asked

    def test_encoding_keeps_the_picture(self, clip_file):
        import av

        with av.open(str(clip_file)) as container:
            decoded = np.stack([f.to_ndarray(format="yuv420p") for f in container.decode(video=0)])
        difference = abs(decoded.astype(int) - pictures(SHORTEST["walk"]))
        assert difference.mean() < 4


class TestDrawing:
    @staticmethod
    def blank() -> np.ndarray:
        return np.full((1, 360, 320), 100, np.int16)

    def test_a_disc_has_its_area_and_colour(self):
        picture = self.blank()
        middle = (160 * 64, 120 * 64)
        drawing.draw(picture, [[drawing.Stroke(middle, middle, 20 * 64, (200, 90, 160))]])
        painted = (picture[0, :240] - 100).sum() / 100
        assert painted == pytest.approx(np.pi * 400, rel=0.01)
        assert picture[0, 120, 160] == 200
        chroma_u, chroma_v = picture[0, 240:].reshape(2, 120, 160)
        assert (chroma_u[60, 80], chroma_v[60, 80]) == (90, 160)

    def test_a_line_is_straight_and_of_its_width(self):
        picture = self.blank()
        drawing.draw(picture, [[drawing.Stroke((50 * 64, 40 * 64), (250 * 64, 190 * 64), 5 * 64, (200, 128, 128))]])
        painted = (picture[0, :240] - 100).sum() / 100
        assert painted == pytest.approx(10 * 250 + np.pi * 25, rel=0.01)

    @pytest.mark.parametrize("place", [(-40, 100), (350, 100), (160, -30), (160, 270), (0, 0), (319, 239)])
    def test_shapes_over_the_edge_are_cut_off(self, place):
        picture = self.blank()
        start, end = (place[0] * 64, place[1] * 64), (place[0] * 64 + 300, place[1] * 64 + 900)
        shapes = [
            drawing.Stroke(start, end, 640, (200, 90, 160), rim=64),
            drawing.Box(start, end, (200, 90, 160)),
        ]
        drawing.draw(picture, [shapes])
        assert picture.min() >= 16
        assert picture.max() <= 200

    def test_sines_are_right(self):
        for turns in (-1.3, 0.0, 0.1, 0.25, 2 / 3, 7.7):
            assert poses.sine(turns) == pytest.approx(np.sin(2 * np.pi * turns), abs=4e-4)
            assert poses.cosine(turns) == pytest.approx(np.cos(2 * np.pi * turns), abs=4e-4)

    def test_limbs_reach_and_keep_their_length(self):
        joint, tip = poses.reach((0.0, 0.5), (0.1, 0.1), 0.25, 0.24, +1)
        assert tip == pytest.approx((0.1, 0.1))
        assert np.hypot(joint[0], joint[1] - 0.5) == pytest.approx(0.25)
        assert np.hypot(joint[0] - tip[0], joint[1] - tip[1]) == pytest.approx(0.24)
        assert joint[0] > 0.05  # the knee is in front
