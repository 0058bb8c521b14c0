"""Formats of split lists: which file is of which, and one that is added by a row of the table."""

import re
import zipfile
from pathlib import Path

import pytest

from har_assets.dataset import lists
from har_assets.dataset.archive import extract_split_lists
from har_assets.dataset.list_formats.hmdb51 import HMDB51_LISTS
from har_assets.dataset.list_formats.something import SOMETHING_LISTS
from har_assets.dataset.list_formats.table import TABLE_LISTS
from har_assets.dataset.list_formats.ucf101 import UCF101_LISTS
from har_assets.dataset.lists import FORMATS, ListFormat, Row, format_of, listed_classes, read_split_lists, text_of
from har_assets.dataset.splits import build_manifests
from har_assets.errors import ArchiveError, DatasetError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("run_test_split1.txt", 1),
        ("draw_sword_test_split12.txt", 12),
        ("_test_split1.txt", None),
        ("run_test_split.txt", None),
        ("run_test_split1.csv", None),
        ("trainlist01.txt", None),
    ],
)
def test_the_scheme_of_hmdb51s_names(name: str, split: int | None) -> None:
    assert HMDB51_LISTS.split_of(name) == split


@pytest.mark.parametrize(
    ("name", "of", "split"),
    [
        ("trainlist01.txt", UCF101_LISTS, 1),
        ("testlist03.txt", UCF101_LISTS, 3),
        ("classInd.txt", None, None),
        ("train.json", SOMETHING_LISTS, 1),
        ("something-something-v2-validation.json", SOMETHING_LISTS, 1),
        ("labels.json", None, None),
        ("restrain.json", None, None),
        ("anything.CSV", TABLE_LISTS, 1),
        ("my_split2.csv", TABLE_LISTS, 2),
        ("readme.txt", None, None),
    ],
)
def test_the_schemes_of_other_names(name: str, of: ListFormat | None, split: int | None) -> None:
    assert format_of(name) == ((of, split) if of else None)


def test_the_lists_of_a_folder_are_of_one_format(tmp_path: Path) -> None:
    """A table beside HMDB51's lists (recordings, figures) is none of them."""
    (tmp_path / "run_test_split1.txt").write_text("a.avi 1\n")
    (tmp_path / "groups.csv").write_text("clip,group\na.avi,1\n")
    assert listed_classes(tmp_path) == ("run",)
    assert len(read_split_lists(tmp_path)) == 1
    assert extract_split_lists(tmp_path, tmp_path.with_name("lists")) == 1


def test_listed_classes_are_those_of_the_names(tmp_path: Path) -> None:
    assert listed_classes(tmp_path) == ()
    (tmp_path / "below").mkdir()
    for name in ("run_test_split1.txt", "below/climb_stairs_test_split1.txt", "readme.txt"):
        (tmp_path / name).touch()
    assert listed_classes(tmp_path) == ("climb_stairs", "run")


# --- another format: one row and its functions ---

OTHER_NAME = re.compile(r"(?P<role>train|test)ing(?P<split>\d\d)\.lst")


def other_split(name: str) -> int | None:
    match = OTHER_NAME.fullmatch(name)
    return int(match["split"]) if match else None


def other_rows(path: Path) -> list[Row]:
    match = OTHER_NAME.fullmatch(path.name)
    assert match is not None
    names = [line.split()[0] for line in text_of(path).splitlines() if line.strip()]
    return [Row(name.partition("/")[0], name.partition("/")[2], match["role"]) for name in names]


OTHER_LISTS = ListFormat(
    wanted="files named training01.lst and testing01.lst",
    split_of=other_split,
    classes=lambda path: {row.label for row in other_rows(path)},
    rows=other_rows,
)


def test_a_format_is_added_by_a_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as file:
        file.writestr("other/training01.lst", "run/a.avi 1\nrun/b.avi 1\nsit/a.avi 2\n")
        file.writestr("other/testing01.lst", "run/c.avi\nsit/b.avi\n")
        file.writestr("other/training02.lst", "run/c.avi 1\n")
    for name in ("run/a.avi", "run/b.avi", "run/c.avi", "sit/a.avi", "sit/b.avi"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(b"x")
    with pytest.raises(ArchiveError, match="expected files named CLASS_test_split1"):
        extract_split_lists(tmp_path / "lists.zip", tmp_path / "lists")

    monkeypatch.setattr(lists, "FORMATS", (*FORMATS, OTHER_LISTS))
    assert extract_split_lists(tmp_path / "lists.zip", tmp_path / "lists") == 3
    assert listed_classes(tmp_path / "lists") == ("run", "sit")
    assert len(read_split_lists(tmp_path / "lists")) == 6
    made = build_manifests(tmp_path / "videos", tmp_path / "lists", split=1, class_names=("run", "sit"), val_fraction=0)
    assert list(made.train["clip"]) == ["run/a.avi", "run/b.avi", "sit/a.avi"]
    assert list(made.test["clip"]) == ["run/c.avi", "sit/b.avi"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"CLASS_test_split1\.txt.* or files named training01"):
        read_split_lists(tmp_path / "empty")
