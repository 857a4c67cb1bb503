"""A card is drawn as Mermaid text and as an SVG picture, and nothing in it gets out of its label."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from tests.cards.test_reading import ARTICLE

from roster.cards import ProcessCard
from roster.cards.mermaid import to_mermaid
from roster.cards.svg import to_svg

EVERYTHING = """
name: everything
steps:
  - {id: split, action: split, output: xs}
  - id: both
    type: parallel
    branches:
      - {id: left, action: x}
      - [{id: right, condition: "${xs} == []", then: complete}, {id: more, action: y}]
  - {id: each, type: foreach, items: "${xs}", do: {id: one, action: z}}
  - {id: pause, type: wait, duration: 90}
  - {id: ready, type: wait, event: go, on_timeout: sorry}
  - {id: ask, type: human_checkpoint, message: "Publish?"}
  - {id: sub, type: subprocess, card: other.yaml, next: done, when: "${xs} != []"}
  - {id: sorry, type: complete, status: failure}
  - {id: done, type: complete}
"""


def test_a_card_is_drawn_as_mermaid_text() -> None:
    assert (
        to_mermaid(ProcessCard.parse(EVERYTHING)).splitlines()
        == """\
flowchart TD
  n0(["start"])
  n2["split<br/>split"]
  n3[/"both<br/>parallel, 2 of 2"\\]
  subgraph g3["both"]
    n5["left<br/>x"]
    n6{"right<br/>#36;#123;xs#125; == #91;#93;"}
    n7["more<br/>y"]
  end
  n4[/"both<br/>joined"\\]
  n8[/"each<br/>for each item of #36;#123;xs#125;"\\]
  subgraph g8["each"]
    n10["one<br/>z"]
  end
  n9[/"each<br/>joined"\\]
  n11>"pause<br/>wait 90 s"]
  n12>"ready<br/>wait for go"]
  n13[["ask<br/>Publish?"]]
  n14["sub<br/>card other.yaml"]
  n15(["sorry<br/>failure"])
  n16(["done<br/>success"])
  n1(["end"])
  n0 --> n2
  n2 --> n3
  n3 --> n5
  n3 --> n6
  n4 --> n8
  n5 --> n4
  n6 -->|then| n4
  n6 -->|else| n7
  n7 --> n4
  n8 --> n10
  n8 -->|no items| n9
  n9 --> n11
  n10 --> n9
  n11 --> n12
  n12 --> n13
  n12 -->|timeout| n15
  n13 --> n14
  n14 -->|skipped| n16
  n14 --> n16
  n15 --> n1
  n16 --> n1""".splitlines()
    )


@pytest.mark.parametrize("text", [EVERYTHING, ARTICLE])
def test_the_picture_has_every_step_and_every_way(text: str) -> None:
    card = ProcessCard.parse(text)
    root = ElementTree.fromstring(to_svg(card))
    space = "{http://www.w3.org/2000/svg}"
    titles = [element.text or "" for element in root.iter(f"{space}title")]
    assert titles[0] == card.name
    for step in card.steps.values():
        assert any(title.startswith(f"{step.id}: ") for title in titles)
    ways = [element for element in root.iter(f"{space}path") if element.get("class", "").startswith("w")]
    assert len(ways) == to_mermaid(card).count("-->")
    assert any(way.get("class") == "w b" for way in ways) == ("step_improve" in card.steps)


def test_boxes_lie_apart_and_inside_the_picture() -> None:
    root = ElementTree.fromstring(to_svg(ProcessCard.parse(EVERYTHING)))
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    boxes = [
        tuple(float(element.get(name, "0")) for name in ("x", "y", "width", "height"))
        for element in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert len(boxes) > 10
    for number, (x, y, wide, high) in enumerate(boxes):
        assert x >= 0
        assert y >= 0
        assert x + wide <= width
        assert y + high <= height
        for other in boxes[:number]:
            assert (
                x + wide <= other[0]
                or other[0] + other[2] <= x
                or y + high <= other[1]
                or other[1] + other[3] <= y
            )


def test_no_text_of_a_card_gets_out_of_its_label() -> None:
    evil = 'a"]; click n2 "javascript:alert(1)"; %% <script>&amp; `#quot; \\'
    card = ProcessCard.from_dict(
        {
            "name": "<b>&",
            "steps": [{"id": evil, "type": "human_checkpoint", "message": f"{evil}\n\x1b[31m\u202e\x00"}],
        }
    )
    drawn = to_mermaid(card)
    assert drawn.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", drawn)
    (line,) = [line for line in drawn.splitlines() if line.startswith("  n2[")]
    label = re.fullmatch(r'  n2\[\["(.*)"\]\]', line)
    assert label is not None
    assert not set(label[1].replace("<br/>", "")) & set('"<>&`\\%{}[]|')
    root = ElementTree.fromstring(to_svg(card))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg", "title", "style", "defs", "marker", "path", "g", "rect", "polygon", "text"
    }  # fmt: skip
