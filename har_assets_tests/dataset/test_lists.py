"""Formats of split lists: HMDB51's, and one that is added by a row of the table."""

import re
import zipfile
from pathlib import Path

import pytest

from har_assets.dataset import lists
from har_assets.dataset.archive import extract_split_lists
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
    found = format_of(name)
    assert (found[1] if found else None) == split


def test_listed_classes_are_those_of_the_names(tmp_path: Path) -> None:
    assert listed_classes(tmp_path) == ()
    (tmp_path / "below").mkdir()
    for name in ("run_test_split1.txt", "below/climb_stairs_test_split1.txt", "readme.txt"):
        (tmp_path / name).touch()
    assert listed_classes(tmp_path) == ("climb_stairs", "run")


# --- another format: one row and its functions ---

UCF_NAME = re.compile(r"(?P<role>train|test)list(?P<split>\d\d)\.txt")


def ucf_split(name: str) -> int | None:
    match = UCF_NAME.fullmatch(name)
    return int(match["split"]) if match else None


def ucf_rows(path: Path) -> list[Row]:
    match = UCF_NAME.fullmatch(path.name)
    assert match is not None
    names = [line.split()[0] for line in text_of(path).splitlines() if line.strip()]
    return [(name.partition("/")[0], name.partition("/")[2], match["role"]) for name in names]


UCF_LISTS = ListFormat(
    wanted="files named trainlist01.txt and testlist01.txt",
    split_of=ucf_split,
    classes=lambda path: {label for label, _, _ in ucf_rows(path)},
    rows=ucf_rows,
)


def test_a_format_is_added_by_a_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as file:
        file.writestr("ucf/trainlist01.txt", "run/a.avi 1\nrun/b.avi 1\nsit/a.avi 2\n")
        file.writestr("ucf/testlist01.txt", "run/c.avi\nsit/b.avi\n")
        file.writestr("ucf/trainlist02.txt", "run/c.avi 1\n")
    for name in ("run/a.avi", "run/b.avi", "run/c.avi", "sit/a.avi", "sit/b.avi"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(b"x")
    with pytest.raises(ArchiveError, match="expected files named CLASS_test_split1"):
        extract_split_lists(tmp_path / "lists.zip", tmp_path / "lists")

    monkeypatch.setattr(lists, "FORMATS", (*FORMATS, UCF_LISTS))
    assert extract_split_lists(tmp_path / "lists.zip", tmp_path / "lists") == 3
    assert listed_classes(tmp_path / "lists") == ("run", "sit")
    assert len(read_split_lists(tmp_path / "lists")) == 6
    made = build_manifests(tmp_path / "videos", tmp_path / "lists", split=1, class_names=("run", "sit"), val_fraction=0)
    assert list(made.train["clip"]) == ["run/a.avi", "run/b.avi", "sit/a.avi"]
    assert list(made.test["clip"]) == ["run/c.avi", "sit/b.avi"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"CLASS_test_split1\.txt.* or files named trainlist01"):
        read_split_lists(tmp_path / "empty")
