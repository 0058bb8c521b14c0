"""Class list and file names."""

from pathlib import Path

import pytest

from har_assets.dataset.archive import extract_split_lists
from har_assets.dataset.classes import (
    HMDB51_CLASSES,
    HMDB51_CLIPS,
    HMDB51_TEST_CLIPS,
    HMDB51_TRAIN_CLIPS,
    HMDB51_UNUSED_CLIPS,
    ClipName,
    parse_clip_name,
)
from har_assets.dataset.groups import hmdb51_film, recording_of
from har_assets.dataset.lists import read_split_lists


def test_the_class_list_is_sorted_and_has_51_names():
    assert len(HMDB51_CLASSES) == 51
    assert list(HMDB51_CLASSES) == sorted(set(HMDB51_CLASSES))
    assert HMDB51_TRAIN_CLIPS + HMDB51_TEST_CLIPS + HMDB51_UNUSED_CLIPS == HMDB51_CLIPS


def test_a_name_is_taken_apart():
    assert parse_clip_name("TrumanShow_wave_f_nm_np1_fr_med_26.avi") == ClipName(
        "TrumanShow", "wave", "f", "nm", 1, "fr", "med", 26
    )


@pytest.mark.parametrize(
    ("name", "label", "film"),
    [
        (
            "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi",
            "golf",
            "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!",
        ),
        (
            "(HQ)_Rock_Climbing_-_Free_Solo_Speed_Climb_-_Dan_Osman_climb_f_cm_np1_le_med_2.avi",
            "climb",
            "(HQ)_Rock_Climbing_-_Free_Solo_Speed_Climb_-_Dan_Osman",
        ),
        ("a&b;c[d]~e#f@g_run_l_cm_np10_ri_goo_3.avi", "run", "a&b;c[d]~e#f@g"),
        ("how_to_run_run_f_nm_np1_ba_bad_0.avi", "run", "how_to_run"),
        ("my holiday.mp4", "run", "run/my holiday"),
        ("no_ending", "run", "run/no_ending"),
        ("film_walk_f_nm_np1_ba_bad_0.avi", "run", "run/film_walk_f_nm_np1_ba_bad_0"),
    ],
)
def test_the_recording_is_the_film_or_the_clip_itself(name: str, label: str, film: str):
    assert recording_of(name, label, hmdb51_film) == (film, not film.startswith("run/"))


def test_the_longest_class_that_fits_is_the_action():
    clip = parse_clip_name("Sabre_Draw_draw_sword_u_nm_np1_fr_bad_0.avi")
    assert clip is not None
    assert (clip.film, clip.action) == ("Sabre_Draw", "draw_sword")


@pytest.mark.parametrize("name", ["", "wave", "wave_f_nm_np1_fr_med_26.avi", "x_wave_f_nm_np1_fr_med_.avi"])
def test_a_foreign_name_is_none(name: str):
    assert parse_clip_name(name) is None


def test_every_official_name_is_understood(shared_data: Path, tmp_path: Path):
    extract_split_lists(shared_data / "test_train_splits.rar", tmp_path / "lists")
    clips = read_split_lists(tmp_path / "lists")[["label", "name"]].drop_duplicates()
    assert len(clips) == HMDB51_CLIPS
    assert tuple(sorted(set(clips["label"]))) == HMDB51_CLASSES
    pairs = list(clips.itertuples(index=False, name=None))
    parsed = [parse_clip_name(name) for _, name in pairs]
    assert [clip.action for clip in parsed if clip] == [label for label, _ in pairs]
    assert len({(label, hmdb51_film(name, label)) for label, name in pairs}) == 2291
    assert len({hmdb51_film(name, label) for label, name in pairs}) == 1407
