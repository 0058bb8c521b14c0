"""Result files and the table of all."""

import csv
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

from har_assets.incoming.results import Results, update_table


def fields(
    content: str, partition: str, predicted: str = "2026-01-01T00:00:00.000+00:00", **more: Any
) -> dict[str, Any]:
    return {
        "video": f"{partition}.avi",
        "partition": partition,
        "content_sha256": content,
        "reason": "",
        "note": "",
        "timeline": None,
        "frames": 3,
        "runtime": "a test",
        "predicted": predicted,
        "model": {"version": "m1", "sha256": "s1"},
        "top": [{"label": "wave", "score": 0.75}, {"label": "run, fast", "score": 0.25}],
        **more,
    }


def lines(home: Path) -> list[dict[str, str]]:
    with (home / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_result_is_found_by_its_content_under_any_partition(tmp_path: Path) -> None:
    results = Results(tmp_path, {"model_sha256": "s1", "windows": 4})
    a = "aa" + "0" * 62
    results.write(fields(a, "one"))
    assert results.find(a, "one") == results.find(a, "two") == fields(a, "one")
    assert results.find("aa" + "1" * 62, "one") is None
    assert Results(tmp_path, {"model_sha256": "s2", "windows": 4}).find(a, "one") is None
    assert json.loads((results.folder / "recipe.json").read_text()) == results.recipe


def test_a_damaged_result_is_none(tmp_path: Path) -> None:
    results = Results(tmp_path, {})
    path = results.write(fields("a" * 64, "one"))
    path.write_text(path.read_text()[:40])
    assert results.find("a" * 64, "one") is None
    assert lines(update_table(tmp_path, print).parent) == []


def test_the_table_has_a_line_a_result_and_says_which_is_current(tmp_path: Path) -> None:
    old, new = Results(tmp_path, {"model": 1}), Results(tmp_path, {"model": 2})
    old.write(fields("a" * 64, "one", "2026-01-01T00:00:00.000+00:00"))
    update_table(tmp_path, print)
    old.write(fields("b" * 64, "one", "2026-01-02T00:00:00.000+00:00"))  # replaced by another content
    new.write(fields("b" * 64, "one", "2026-01-03T00:00:00.000+00:00", model={"version": "m2", "sha256": "s2"}))
    new.write(fields("", "bad", top=[], reason="permission denied", model={"version": "m2", "sha256": "s2"}))
    update_table(tmp_path, print)
    found = [
        (row["partition"], row["model_version"], row["current"], row["label"], row["reason"]) for row in lines(tmp_path)
    ]
    assert found == [
        ("bad", "m2", "true", "", "permission denied"),
        ("one", "m1", "false", "wave", ""),
        ("one", "m1", "true", "wave", ""),
        ("one", "m2", "true", "wave", ""),
    ]
    assert lines(tmp_path)[1]["label_2"] == "run, fast"
    new.write(fields("c" * 64, "bad", model={"version": "m2", "sha256": "s2"}))  # it can be read now
    update_table(tmp_path, print)
    assert [row["reason"] for row in lines(tmp_path) if row["partition"] == "bad"] == [""]


def test_a_line_follows_its_result(tmp_path: Path) -> None:
    results = Results(tmp_path, {})
    for reason in ("permission denied", "input/output error"):
        results.write(fields("", "one", top=[], reason=reason))
        assert [row["reason"] for row in lines(update_table(tmp_path, print).parent)] == [reason]


def test_the_content_that_was_given_last_is_current(tmp_path: Path) -> None:
    results = Results(tmp_path, {})
    results.write(fields("a" * 64, "one", "2026-01-01T00:00:00.000+00:00"))
    results.write(fields("b" * 64, "one", "2026-01-02T00:00:00.000+00:00"))
    update_table(tmp_path, print)
    results.write(fields("a" * 64, "one", "2026-01-01T00:00:00.000+00:00", given="2026-01-03T00:00:00.000+00:00"))
    update_table(tmp_path, print)
    assert [row["content_sha256"][0] for row in lines(tmp_path) if row["current"] == "true"] == ["a"]


def test_half_written_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    results = Results(tmp_path, {})
    path = results.write(fields("a" * 64, "one"))
    killed, running = (path.with_name(f".{path.name}.{number}-ab") for number in (1, 2))
    for partial in (killed, running):
        partial.write_bytes(path.read_bytes()[:40])
    os.utime(killed, (0, 0))
    assert len(lines(update_table(tmp_path, print).parent)) == 1
    assert (killed.exists(), running.exists()) == (False, True)


def test_a_table_that_is_lost_or_damaged_is_made_again(tmp_path: Path) -> None:
    results = Results(tmp_path, {})
    for number in range(5):
        results.write(fields(f"{number:064d}", f"video{number}"))
    table = update_table(tmp_path, print)
    whole = table.read_bytes()
    for damage in (None, b"", whole[: len(whole) // 2], b"\xff\xfe", b"video,label\na,b\n"):
        table.unlink()
        if damage is not None:
            table.write_bytes(damage)
        assert update_table(tmp_path, print).read_bytes() == whole


def write_some(home: Path, first: int) -> None:
    results = Results(home, {})
    for number in range(first, first + 20):
        results.write(fields(f"{number:064d}", f"video{number}"))
        update_table(home, lambda line: None)


def test_two_runs_at_once_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(tmp_path, first)) for first in (0, 20, 40)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {row["partition"] for row in lines(tmp_path)} == {f"video{number}" for number in range(60)}
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
