"""What the documents say is there, is there."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from har_assets.settings.fields import NAMES
from har_assets_tests.project import REPOSITORY

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")),
)
PRODUCTS = ("artifacts/", "data/", "incoming/", "results/", "mlflow_outbox/", "mlartifacts/", "model/")
"""Folders that runs make."""


DEPLOYMENT = [path for path in (REPOSITORY / "deploy").rglob("*") if path.is_file() and path.suffix != ".md"]


def text_of(document: str) -> str:
    return (REPOSITORY / document).read_text()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document: str) -> None:
    folder = (REPOSITORY / document).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name if name else REPOSITORY / document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_many_files_are_named() -> None:
    assert len(re.findall(r"`[\w./]+\.py`", text_of("CONTRIBUTING.md"))) > 20


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", *(name for name in DOCUMENTS if name.startswith("docs/"))])
def test_files_that_are_named_exist(document: str) -> None:
    named = re.findall(r"`([\w./]+(?:\.py|\.md|\.toml|\.lock))`", text_of(document))
    named += re.findall(r"`([\w./]+/)`", text_of(document)) if document == "CONTRIBUTING.md" else []
    folders = [REPOSITORY, REPOSITORY / "har_assets"]
    missing = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert [name for name in missing if not Path(name).name.startswith("my_")] == []


def test_names_of_code_that_contributing_uses_exist() -> None:
    text = text_of("CONTRIBUTING.md")
    code = "\n".join(path.read_text() for path in (REPOSITORY / "har_assets").rglob("*.py"))
    tests = "\n".join(path.read_text() for path in (REPOSITORY / "har_assets_tests").rglob("*.py"))
    for name in re.findall(r"`(_?[A-Za-z]\w*_\w+|[A-Z][A-Z0-9_]+|_[A-Z]\w+|[A-Z]\w+Error)`", text):
        in_tests = f"def {name}(" in tests or re.search(rf"^{name}\b", tests, re.MULTILINE)
        assert name.startswith("my_") or re.search(rf"\b{name}\b", code) or in_tests, name
    for name, path in re.findall(r"`([A-Za-z_]\w*)`\s+\(`(\w[\w/]*\.py)`\)", text):
        found = (REPOSITORY / path).read_text()
        assert re.search(rf"^(class |def |){name}\b", found, re.MULTILINE), f"{name} is not made in {path}"


def test_configurations_in_contributing_are_configurations() -> None:
    found = re.findall(r"`(ops: \{.*?\})` in", text_of("CONTRIBUTING.md"), re.DOTALL)
    assert len(found) == 2
    from har_assets.graph.assets.dataset import RawArchiveConfig, VideoClipsConfig
    from har_assets.graph.assets.training import TrainingConfig

    kinds = {"raw_archive": RawArchiveConfig, "video_clips": VideoClipsConfig, "trained_checkpoint": TrainingConfig}
    for text in found:
        for asset, entry in yaml.safe_load(text)["ops"].items():
            kinds[asset](**entry["config"])


def test_commands_of_make_and_har_that_are_named_exist() -> None:
    makefile = text_of("Makefile")
    for target in set(re.findall(r"\bmake ([a-z][a-z-]+)", text_of("CONTRIBUTING.md"))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    import typer

    from har_assets.cli.app import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for command in set(re.findall(r"`har ([a-z][a-z-]+)", text_of(document))):
            assert command in commands, f"{document}: har {command}"


def test_environment_variables_in_the_documents_are_read_somewhere() -> None:
    known = set[str](NAMES.values())
    assert len(known) > 20
    # Those of the containers, and those of the tests.
    known |= set(re.findall(r"\bHAR_[A-Z0-9_]+\b", "".join(path.read_text() for path in DEPLOYMENT)))
    known |= set(re.findall(r"[\"'](HAR_[A-Z0-9_]+)[\"']", text_of("har_assets_tests/conftest.py")))
    for document in (*DOCUMENTS, "SECURITY.md", "deploy/README.md", "dagster.yaml"):
        named = set(re.findall(r"\bHAR_[A-Z0-9_]*[A-Z0-9]\b", text_of(document)))
        assert named <= known, f"{document}: {sorted(named - known)}"


def test_the_changelog_keeps_its_form() -> None:
    text = text_of("CHANGELOG.md")
    versions = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert all(date for _, date in versions[1:])
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    from har_assets import defs

    named = set(re.findall(r"\b[a-z]+_[a-z0-9_]+\b", text.split("### Changed")[0]))
    known = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    known |= {part.name for part in (*defs.resolve_all_job_defs(), *(defs.sensors or ()), *(defs.schedules or ()))}
    known |= {"har_assets"}
    from har_assets.model.networks import NETWORKS

    assert named - known - NETWORKS.keys() == set()


def test_the_package_says_that_it_is_typed(tmp_path: Path) -> None:
    assert (REPOSITORY / "har_assets" / "py.typed").read_bytes() == b""
    packaged = tomllib.loads(text_of("pyproject.toml"))["tool"]["setuptools"]["package-data"]
    assert "py.typed" in packaged["har_assets"]
    listed = subprocess.run(
        ["git", "ls-files", "har_assets/py.typed"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert listed.returncode != 0 or listed.stdout, "not committed"


def test_no_host_of_a_package_registry_is_named() -> None:
    """Packages come through pip and apt, as whoever runs them has set these up."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    named = {}
    for name in filter(None, tracked.stdout.split("\0")):
        path = REPOSITORY / name
        text = path.read_text(errors="replace") if path.is_file() else ""
        hosts = set(re.findall(r"https?://([\w.-]+)", text))
        named[name] = {
            host for host in hosts if re.match(r"(pypi|files\.python|registry|index|conda|download\.py)", host)
        }
    assert {name: hosts for name, hosts in named.items() if hosts} == {}
