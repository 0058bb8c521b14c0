"""A data folder: its version, held against what the real `dvc add` writes, what it is, and how it is replaced."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from har_assets.dataset import groups
from har_assets.dataset.classes import HMDB51_CLASSES
from har_assets.dataset.dvc import files_of, version_of
from har_assets.dataset.folder import Dataset, clips_below, new_data, recover_data, videos_on_disk
from har_assets.dataset.groups import hmdb51_film
from har_assets.dataset.known import HMDB51
from har_assets.errors import DatasetError
from har_assets_tests.dataset.swap import KILLED_SWAP

# Characters of real HMDB51 names, names outside ASCII in both Unicode forms, hidden files, and names whose order
# differs between sorting whole paths and sorting folder by folder (`a!/x`, `a/x`, `a0`).
NAMES = (
    "dataset.json",
    "videos/jump/#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi",
    "videos/jump/(HQ)_Rock_Climbing_-_Free_Solo!_&_more+more;x@y[z]~.avi",
    "videos/jump/two  spaces'quote\"double$dollar%41.avi",
    "videos/jump/\u00fc \u00e9 \u65e5\u672c \U0001f3c3.avi",
    "videos/jump/u\u0308.avi",
    "videos/jump/.hidden.avi",
    "videos/jump!/nested/deeper/a.avi",
    "videos/jump!/nested.avi",
    "videos/jump-a/a.avi",
    "videos/jump.avi",
    "videos/empty.avi",
)


def test_the_version_is_the_md5_that_dvc_gives(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number, name in enumerate(NAMES):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"" if "empty" in name else bytes([number]) * (number + 1))
    (data / "videos" / "an empty folder").mkdir()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data"], cwd=tmp_path, check=True)
    tracked = yaml.safe_load((tmp_path / "data.dvc").read_text())["outs"][0]
    assert tracked["nfiles"] == len(NAMES)
    assert version_of(files_of(data)) == tracked["md5"]


def test_the_version_knows_content_and_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = version_of(files_of(tmp_path))
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(0o444)
    assert version_of(files_of(tmp_path)) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert version_of(files_of(tmp_path)) != first


def test_a_data_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Dataset(name="mine", synthetic=False, classes=("jump", "sit"), complete=False)
    written.write(tmp_path)
    assert Dataset.read(tmp_path) == written


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', '{"classes": 3}'])
def test_an_unreadable_dataset_json_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match="cannot be read"):
        Dataset.read(tmp_path)


def test_old_and_fresh_files_leave_the_usual_rule_for_recordings_out(tmp_path: Path) -> None:
    """The bytes of dataset.json are part of the version that data.dvc names."""
    text = '{\n  "name": "mine",\n  "synthetic": false,\n  "classes": [\n    "sit"\n  ],\n  "complete": false\n}\n'
    (tmp_path / "dataset.json").write_text(text)
    found = Dataset.read(tmp_path)
    assert found.rule is hmdb51_film
    found.write(tmp_path)
    assert (tmp_path / "dataset.json").read_text() == text


def test_a_data_set_carries_its_rule_for_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_first_letter(name: str, label: str) -> str:
        return name[0]

    monkeypatch.setitem(groups.RULES, "letters", by_first_letter)
    written = Dataset("mine", synthetic=False, classes=("sit",), complete=False, recordings="letters")
    written.write(tmp_path)
    assert Dataset.read(tmp_path).rule is by_first_letter
    monkeypatch.delitem(groups.RULES, "letters")
    with pytest.raises(DatasetError, match="cannot be read"):
        Dataset.read(tmp_path)


def of(name: str, found: tuple[str, ...], listed: tuple[str, ...] = (), clips: int = 9) -> Dataset:
    return Dataset.of(name, synthetic=False, found=found, listed=listed, clips=clips)


def test_the_class_list_is_the_constant_for_hmdb51_and_sorted_for_others() -> None:
    assert of("hmdb51", ("wave",)).classes == HMDB51_CLASSES
    assert of("mine", ("wave",), HMDB51_CLASSES).classes == HMDB51_CLASSES
    assert of("mine", ("zebra", "ant")).classes == ("ant", "zebra")


def test_only_hmdb51_claims_to_be_hmdb51() -> None:
    assert of("hmdb51", ("wave",)).claims is HMDB51
    assert of("mine", HMDB51_CLASSES, HMDB51_CLASSES, 6766).claims is HMDB51
    assert not of("mine", HMDB51_CLASSES, HMDB51_CLASSES, 6765).complete
    assert not of("mine", HMDB51_CLASSES, (), 6766).complete
    assert not of("mine", ("ant", "zebra"), ("ant", "zebra"), 50_000).complete
    assert of("mine", ("ant",)).claims is None


# --- replacing it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "left"), [(1, "old"), (2, "dataset.json")])
def test_a_kill_while_data_is_replaced_leaves_the_old_or_the_new(tmp_path: Path, steps: int, left: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "old").write_text("{}")
    (data / "old").chmod(0o444)
    killed = subprocess.run([sys.executable, "-c", KILLED_SWAP, str(data), str(steps)], check=False)
    assert killed.returncode == -signal.SIGKILL
    lines: list[str] = []
    recover_data(data, lines.append)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert [path.name for path in data.iterdir()] == [left]
    assert len(lines) == (1 if left == "old" else 0)


def test_an_error_while_data_is_made_leaves_it_as_it_was(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "videos" / "sit").mkdir(parents=True)
    (data / "videos" / "sit" / "a.avi").write_bytes(b"12")
    with pytest.raises(FileNotFoundError), new_data(data) as staging:
        (staging / "nowhere" / "half").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert clips_below(data) == [data / "videos" / "sit" / "a.avi"]
    assert videos_on_disk(data / "videos") == [("sit", "a.avi", 2)]


def test_a_folder_without_videos_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no folder"):
        videos_on_disk(tmp_path / "videos")
    with pytest.raises(DatasetError, match="holds no video"):
        videos_on_disk(tmp_path)
