"""Every document leads where it says, and says nothing about the machine that it was written on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.docs.markdown import ROOT, Document


def names() -> list[str]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"]
    return sorted(str(path.relative_to(ROOT)) for path in found)


DOCUMENTS = pytest.mark.parametrize("name", names())


@DOCUMENTS
def test_every_link_leads_somewhere(name: str) -> None:
    document = Document.read(name)
    for link in document.links:
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name} links to {link}, and there is no such file"
        if anchor:
            assert anchor in Document.read(str(target.resolve().relative_to(ROOT))).anchors, f"{name}: {link}"


def test_every_page_is_linked_from_the_readmes() -> None:
    for name in ("README.md", "README.ru.md"):
        links = set(Document.read(name).links)
        assert {page for page in names() if "/" in page} <= links
        assert {"CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"} <= links


# Written in pieces, so that this file does not say what it forbids.
_HOSTS = ("py" + "pi.org", "python" + "hosted.org", "conda" + ".anaconda", "npm" + "js.")
_PLACES = re.compile(
    r"(?<![\w.~/-])/(?:" + "|".join(("wo" + "rk", "ro" + "ot")) + r")/|" + re.escape(str(ROOT)) + "/"
)


def tracked_text() -> list[Path]:
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "*.md",
            "*.py",
            "*.toml",
            "*.yaml",
            "Makefile",
            "scripts",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split("\n")
    files = [ROOT / name for name in listed if name]
    # A source archive has no history to ask.
    return [file for file in files or [*ROOT.glob("*.md"), *ROOT.glob("src/**/*.py")] if file.is_file()]


def test_no_file_names_this_machine_or_a_package_registry() -> None:
    faults = []
    for file in tracked_text():
        text = file.read_text(encoding="utf-8", errors="replace")
        for line, content in enumerate(text.splitlines(), 1):
            if _PLACES.search(content) or any(host in content for host in _HOSTS):
                faults.append(f"{file.relative_to(ROOT)}:{line}: {content.strip()[:100]}")
    assert faults == []


def test_the_changelog_names_the_version() -> None:
    from roster import __version__

    first = next(heading for level, heading in Document.read("CHANGELOG.md").headings if level == 2)
    assert first.startswith(f"[{__version__}]")


def test_the_map_of_the_house_names_every_package_and_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "src" / "roster").iterdir()):
        if path.name.startswith("__") or not (path.suffix == ".py" or list(path.glob("*.py"))):
            continue
        shown = f"{path.name}/" if path.is_dir() else path.name
        assert f"`{shown}`" in text, shown
    for path in sorted((ROOT / "tests").iterdir()):
        if list(path.glob("test_*.py")):
            assert f"`tests/{path.name}/`" in text, path.name


def test_every_file_that_the_map_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = []
    for name in re.findall(r"`([\w./-]+(?:\.py|\.toml|\.md|/))`", text):
        if not any((base / name).exists() for base in (ROOT, ROOT / "src", ROOT / "src" / "roster")):
            missing.append(name)
    assert missing == []


def test_every_make_target_that_the_map_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in ("README.md", "README.ru.md", "CONTRIBUTING.md"):
        for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", (ROOT / name).read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: make {target}"


def test_the_strategy_of_the_map_works() -> None:
    (block,) = (block for block in Document.read("CONTRIBUTING.md").blocks if block.language == "python")
    exec(compile(block.text, str(block), "exec"), {})
    # It says how to try one by hand; by name it is taken through the promises of all.
    assert "STRATEGIES" in (ROOT / "tests" / "routing" / "test_strategies.py").read_text(encoding="utf-8")


def test_the_places_to_enter_an_engine_are_where_the_map_says() -> None:
    assert "\nSTORES: " in (ROOT / "tests" / "contract" / "conftest.py").read_text(encoding="utf-8")
    assert "\nBUSES: " in (ROOT / "tests" / "contract" / "test_bus.py").read_text(encoding="utf-8")
    from chaos import scenarios

    assert scenarios.ALL
