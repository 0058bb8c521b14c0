"""The settings of a deployment are named and read in one module."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import har_assets
import tools.settings
from har_assets import settings
from har_assets.cli.doctor import examine
from har_assets.cli.doctor.environment import check_settings
from har_assets.cli.doctor.finding import PROBLEM, WARNING
from har_assets.cli.doctor.project import check_quota
from har_assets.errors import SettingsError
from har_assets.settings import fields
from har_assets.training.request import ERROR_FILE, TrainingRequest
from har_assets_tests.project import REPOSITORY
from har_assets_tests.videos import write_video

PACKAGE = Path(har_assets.__file__).parent
SOURCE = "".join(path.read_text() for path in sorted((PACKAGE / "settings").glob("*.py")))


def named_in(source: str) -> list[str]:
    """Texts of a module that are the name of a setting and nothing else."""
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [text for text in texts if isinstance(text, str) and re.fullmatch("HAR_[A-Z_]+", text)]


@pytest.mark.parametrize(
    "line", ['value = os.environ["HAR_RAY"]', 'RAY = "HAR_RAY"', 'option(envvar=["HAR_RAY"])', 'env = {"HAR_RAY": ""}']
)
def test_the_search_finds_each_way_of_naming_one(line: str) -> None:
    assert named_in(line) == ["HAR_RAY"]
    assert named_in('"""Empty takes HAR_RAY."""') == []


def test_no_other_module_names_a_setting() -> None:
    naming = {
        str(path.relative_to(PACKAGE)): names
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "settings" and (names := named_in(path.read_text()))
    }
    assert naming == {}


def test_every_setting_has_a_description_and_no_name_but_its_fields() -> None:
    assert len(fields.NAMES) == 28
    assert all(fields.meaning_of(name) for name in fields.NAMES.values())
    assert named_in(SOURCE) == []
    used = {
        name: str(path.relative_to(REPOSITORY))
        for folder in ("har_assets", "har_assets_tests", "benchmarks", "tools")
        for path in (REPOSITORY / folder).rglob("*.py")
        for name in re.findall(r"\bsettings\.([A-Z][A-Z_]+)\b", path.read_text())
    }
    constants = {name for name in vars(settings) if name.isupper()}
    assert {name: path for name, path in used.items() if name not in fields.NAMES.keys() | constants} == {}
    assert {name: getattr(settings, name) for name in fields.NAMES} == fields.NAMES


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)


def test_a_setting_is_read_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.RAY.get() is None
    assert settings.read().ray == ""
    assert settings.read() is settings.read()
    monkeypatch.setenv("HAR_RAY", "http://head:8265")
    assert settings.RAY.get() == settings.read().ray == "http://head:8265"
    assert f"unset {settings.RAY}" == "unset HAR_RAY"


EMPTY_MEANS: dict[str, object] = {"allowed_folders": (), "download_hosts": ()}


def test_an_empty_variable_is_not_set_but_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = settings.read().model_dump()
    for text in ("", "  "):
        for name in fields.NAMES.values():
            monkeypatch.setenv(name, text)
        assert settings.read().model_dump() == {**defaults, **EMPTY_MEANS}
        assert [name for name in fields.NAMES.values() if fields.is_set(name)] == [
            settings.ALLOWED_FOLDERS,
            settings.DOWNLOAD_HOSTS,
        ]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("STORE_QUOTA", "1.5tb", 1_500_000_000_000),
        ("STORE_QUOTA", "4 GiB", 4 * 2**30),
        ("INCOMING_SUFFIXES", ".avi, .mp4,", (".avi", ".mp4")),
        ("INCOMING_INTERVAL", "5", 5),
        ("DECODER", "pyav", "pyav"),
        ("ALLOWED_FOLDERS", "/a::b c", (Path("/a"), Path("b c"))),
        ("DOWNLOAD_HOSTS", "one.example, two.example:8080", ("one.example", "two.example:8080")),
        ("SERVING_FOLDER", "/videos", Path("/videos")),
        ("RAY", " https://head:8265/ray ", "https://head:8265/ray"),
        ("TIME_ZONE", "Europe/Berlin", "Europe/Berlin"),
        ("SMTP_SECURITY", "tls", "tls"),
        ("SMTP_PORT", "65535", 65535),
        ("TRAINING_PLACE", '{"ray_job": "a"}', {"ray_job": "a"}),
        ("PARENT_PID", "17", 17),
    ],
)
def test_values(name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"HAR_{name}", text)
    assert getattr(settings.read(), name.lower()) == value


WRONG = [
    ("STORE_QUOTA", "1,5 TB", "write a number and a unit, such as 200 GB or 1.5 TB"),
    ("DAGSTER_UI", "dagster.example", "set it to an address such as http://127.0.0.1:3000"),
    ("INCOMING_SUFFIXES", ".avi,mp4", "begin each suffix with a dot, such as .mp4,.avi"),
    ("INCOMING_INTERVAL", "0", "it should be greater than 0"),
    ("DECODER", "opencv", "it should be 'auto' or 'pyav'"),
    ("RAY", "head:8265", "set it to an address such as http://HEAD:8265"),
    ("TIME_ZONE", "../etc/passwd", "set it to an IANA name, such as Europe/Berlin"),
    ("SMTP_SECURITY", "ssl", "it should be 'starttls', 'tls' or 'none'"),
    ("SMTP_PORT", "65536", "it should be less than or equal to 65535"),
    ("ALERT_MAIL", "ops@example.org,night", "write addresses with commas between them"),
    ("TRAINING_PLACE", "{", "Invalid JSON"),
    ("PARENT_PID", "-1", "it should be greater than 0"),
]


@pytest.mark.parametrize(("name", "text", "remedy"), WRONG)
def test_a_wrong_value_is_one_sentence(name: str, text: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"HAR_{name}", text)
    with pytest.raises(SettingsError) as error:
        settings.read()
    assert str(error.value).startswith(f"HAR_{name} is {text!r}: {remedy}")
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_several_wrong_values_are_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text, _ in WRONG:
        monkeypatch.setenv(f"HAR_{name}", text)
    with pytest.raises(SettingsError) as error:
        settings.read()
    for name, text, remedy in WRONG:
        assert str(error.value).count(f"HAR_{name} is {text!r}: {remedy}") == 1
    assert "\n" not in str(error.value)


def test_mail_without_a_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_ALERT_MAIL", "ops@example.org")
    with pytest.raises(SettingsError, match=r"^HAR_ALERT_MAIL names recipients .*: set HAR_SMTP_HOST\.$"):
        settings.read()


def test_no_secret_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_ALERT_WEBHOOK", "chat.example/hooks/s3cret")
    monkeypatch.setenv("HAR_SMTP_PASSWORD", "s3cret")
    monkeypatch.setenv("HAR_MLFLOW_URI", "postgresql://me:s3cret@host/mlflow")
    monkeypatch.setenv("HAR_RAY", "ftp://me:s3cret@head")
    with pytest.raises(SettingsError) as error:
        settings.read()
    assert "HAR_ALERT_WEBHOOK is '***'" in str(error.value)
    assert "HAR_RAY is 'ftp://me:***@head'" in str(error.value)
    monkeypatch.setenv("HAR_ALERT_WEBHOOK", "https://chat.example/hooks/s3cret")
    monkeypatch.delenv("HAR_RAY")
    said = [repr(settings.read()), *(f"{finding}" for finding in check_settings(Path()))]
    assert "s3cret" not in str(error.value)
    assert [line for line in said[1:] if "s3cret" in line] == []
    assert said[0].count("s3cret") == 1  # the tracking address, which has to name no password


def test_a_variable_that_nothing_reads_is_reported_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fields.unknown() == {}
    monkeypatch.setenv("HAR_ARTEFACTS", "s3://team/har")
    monkeypatch.setenv("HAR_OF_ANOTHER_PROGRAM", "1")
    assert settings.read().artifacts == "artifacts"
    found = fields.unknown()
    assert found["HAR_ARTEFACTS"].endswith("changes nothing: did you mean HAR_ARTIFACTS?")
    assert found["HAR_OF_ANOTHER_PROGRAM"].endswith("changes nothing: see docs/settings.md.")


BAD = {"HAR_TIME_ZONE": "Mars", "HAR_SMTP_PORT": "0"}
SENTENCE = (
    "HAR_TIME_ZONE is 'Mars': set it to an IANA name, such as Europe/Berlin; "
    "HAR_SMTP_PORT is '0': it should be greater than or equal to 1."
)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["har_assets.cli", "status"], f"error: {SENTENCE}"),
        (["dagster", "asset", "materialize", "-m", "har_assets", "--select", "raw_archive"], f"Error: {SENTENCE}"),
        (["dagster", "definitions", "validate", "-m", "har_assets"], SENTENCE),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_says_it_at_its_start(command: list[str], said: str, tmp_path: Path) -> None:
    environment = {**os.environ, **BAD, "HAR_ARTEFACTS": "x"}
    ran = [sys.executable, "-m", *command]
    done = subprocess.run(ran, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert said in output.splitlines()
    assert output.count(SENTENCE) == 1
    assert "Traceback" not in output


def test_a_training_says_it(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    TrainingRequest(work=str(tmp_path), spec="{}", provenance="{}", manifests={}, frame_cache="").write(file)
    done = subprocess.run(
        [sys.executable, "-m", "har_assets.training", str(file)],
        env={**os.environ, **BAD},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (1, f"error: {SENTENCE}\n")
    assert (tmp_path / ERROR_FILE).read_text() == SENTENCE


@pytest.mark.parametrize("command", [["har_assets.cli", "status"], ["dagster", "asset", "list", "-m", "har_assets"]])
def test_a_variable_that_nothing_reads_is_a_warning_at_the_start(command: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "HAR_ARTEFACTS": "x"}
    ran = [sys.executable, "-m", *command]
    done = subprocess.run(ran, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("HAR_ARTEFACTS is no setting of har_assets and changes nothing: did you mean") == 1


def test_doctor_lists_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_STORE_QUOTA", "a lot")
    monkeypatch.setenv("HAR_TIME_ZONE", "Europe/Berlin")
    monkeypatch.setenv("HAR_ALLOWED_FOLDERS", "")
    monkeypatch.setenv("HAR_RAY", "")
    monkeypatch.setenv("HAR_ALERT_MAIL", "ops@example.org")
    monkeypatch.setenv("HAR_ARTEFACTS", "x")
    found = {finding.check: finding for finding in check_settings(Path())}
    assert list(found) == [*fields.NAMES.values(), "HAR_ARTEFACTS"]
    wrong = found["HAR_STORE_QUOTA"]
    assert (wrong.state, wrong.found) == (PROBLEM, "'a lot'")
    assert wrong.remedy == "write a number and a unit, such as 200 GB or 1.5 TB"
    assert found["HAR_TIME_ZONE"].found.startswith("'Europe/Berlin' (environment): IANA name")
    assert found["HAR_ALLOWED_FOLDERS"].found.startswith("'' (environment): Folders")
    assert found["HAR_RAY"].found.startswith("not set: Address of the job server")
    assert found["HAR_ARTIFACTS"].found.startswith("'artifacts' (default): Folder or")
    assert found["HAR_ARTEFACTS"].state == WARNING


def test_other_checks_of_doctor_wait_for_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_STORE_QUOTA", "a lot")
    monkeypatch.setattr(examine, "CHECKS", (check_settings, check_quota))
    found = examine.examine(tmp_path)
    assert [finding.check for finding in found if finding.state == PROBLEM] == ["HAR_STORE_QUOTA"]
    assert (found[-1].check, found[-1].state, found[-1].found) == ("quota", WARNING, "not looked at")


def test_the_page_is_current() -> None:
    page = (REPOSITORY / "docs" / "settings.md").read_text()
    assert page == tools.settings.page(), "run `python -m tools.settings > docs/settings.md`"
    assert re.findall(r"^\| `(HAR_\w+)` ", page, re.MULTILINE) == list(fields.NAMES.values())


def test_names_bring_neither_pydantic_nor_anything_of_the_project_along() -> None:
    code = (
        "import har_assets, sys; before = set(sys.modules)\n"
        "from har_assets import settings; settings.RAY.get(); print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    brought = [name for name in done.stdout.split() if name.startswith(("har_assets", "pydantic"))]
    assert brought == ["har_assets.settings"]


def test_a_process_that_decodes_does_not_pay_for_the_fields(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", np.zeros((8, 32, 32, 3), np.uint8))
    code = (
        "import sys; from pathlib import Path; from har_assets.video.probe import probe\n"
        "probe(Path(sys.argv[1])); print('pydantic' in sys.modules)"
    )
    for environment, expected in (({}, "False"), ({"HAR_DECODER": "pyav"}, "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(video)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [expected]
