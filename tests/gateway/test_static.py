"""The dashboard's files: others' libraries as they were vendored, no outside address, nothing that would need a build."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from tests.gateway.conftest import Served

import roster.gateway

STATIC = Path(roster.gateway.__file__).parent / "static"
VENDOR = STATIC / "vendor"
OURS = sorted(path for path in STATIC.iterdir() if path.is_file())


def test_vendored_files_are_those_that_were_vendored() -> None:
    lines = [line.split(maxsplit=1) for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.suffix in (".js", ".LICENSE")
    }

    assert found == sums
    assert len(found) == 4


def test_the_versions_that_are_named_are_those_that_are_fetched() -> None:
    script = (STATIC.parents[3] / "scripts" / "vendor-assets").read_text()
    told = dict(
        re.findall(r"^\| `(\w+)\.js` \|[^|]*\| ([0-9.]+) \|", (VENDOR / "README.md").read_text(), re.M)
    )

    assert told == {
        name.lower(): number for name, number in re.findall(r"^([A-Z]+)=([0-9.]+)$", script, re.M)
    }


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_file_of_ours_has_an_outside_address_or_makes_markup_of_text(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")

    assert not re.search(r"\b(?:https?|wss?):|[\"'(]//", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc", text
    )
    assert not re.search(r"\son\w+=[\"']|style=[\"']|javascript:", text)


async def test_every_file_is_served_as_what_it_is(served: Served) -> None:
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in [*OURS, *VENDOR.glob("*.js")]:
        if path.suffix not in kinds:
            continue
        answer = await served.client.get(f"/static/{path.relative_to(STATIC)}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == kinds[path.suffix], path.name
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"

    page = await served.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "require-trusted-types-for 'script'" in page.headers["content-security-policy"]
