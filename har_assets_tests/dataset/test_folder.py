"""The version of a data folder, held against what the real `dvc add` writes."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from har_assets.dataset.classes import HMDB51_CLASSES
from har_assets.dataset.folder import Dataset, class_list, is_complete
from har_assets.errors import DatasetError
from har_assets.graph.resources.dvc import files_of, version_of

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


def test_the_class_list_is_the_constant_for_hmdb51_and_sorted_for_others() -> None:
    assert len(class_list("hmdb51", ("wave",), ())) == 51
    assert class_list("mine", ("zebra", "ant"), ()) == ("ant", "zebra")


def test_only_hmdb51_claims_to_be_hmdb51() -> None:
    assert is_complete("hmdb51", ("wave",), (), 9)
    assert is_complete("mine", HMDB51_CLASSES, HMDB51_CLASSES, 6766)
    assert not is_complete("mine", HMDB51_CLASSES, HMDB51_CLASSES, 6765)
    assert not is_complete("mine", HMDB51_CLASSES, (), 6766)
    assert not is_complete("mine", ("ant", "zebra"), ("ant", "zebra"), 50_000)
