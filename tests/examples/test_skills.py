"""The algorithms behind the agents do what they say."""

from __future__ import annotations

from typing import Any

import pytest
from tests.examples.conftest import INPUT

from examples.skills import links, logs, summary, tables
from examples.skills.keywords import keywords
from examples.skills.readability import measure
from examples.skills.report import report
from examples.skills.simplify import simplify
from examples.skills.words import detect_language, sentences, stem, syllables

# -- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("Mr. Smith came. He left!", "en", ["Mr. Smith came.", "He left!"]),
        ("It costs 3.50 now. Buy it.", "en", ["It costs 3.50 now.", "Buy it."]),
        ("It was I. Then it rained.", "en", ["It was I.", "Then it rained."]),
        ("J. Flesch wrote it.\n\nA title\n\nMore", "en", ["J. Flesch wrote it.", "A title", "More"]),
        ('He said "Go." Then he went.', "en", ['He said "Go."', "Then he went."]),
        ("Дом 5 по ул. Садовой. Он стар… Войдём?", "ru", ["Дом 5 по ул. Садовой.", "Он стар…", "Войдём?"]),
        ("Es war z.B. Brot da. Gut so.", "de", ["Es war z.B. Brot da.", "Gut so."]),
        ("", "en", []),
    ],
)
def test_sentences_end_where_they_end(text: str, language: str, found: list[str]) -> None:
    assert sentences(text, language) == found


@pytest.mark.parametrize(
    ("file", "language"),
    [("bees", "en"), ("notice", "en"), ("lighthouse", "ru"), ("prikaz", "ru"), ("brot", "de")],
)
def test_the_language_of_a_text_is_known(file: str, language: str) -> None:
    assert detect_language((INPUT / f"{file}.txt").read_text("utf-8")) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [("", "en"), ("Обеспечивает безопасность.", "ru"), ("42", "en"), ("Brot und Salz", "de")],
)
def test_the_language_of_a_few_words_is_known(text: str, language: str) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize(
    ("word", "language", "count"),
    [
        ("bee", "en", 1), ("table", "en", 2), ("make", "en", 1), ("readability", "en", 5), ("hmm", "en", 1),
        ("маяк", "ru", 2), ("поселение", "ru", 5), ("в", "ru", 1), ("Bäckerei", "de", 3),
    ],
)  # fmt: skip
def test_syllables(word: str, language: str, count: int) -> None:
    assert syllables(word, language) == count


@pytest.mark.parametrize(
    ("forms", "language"),
    [(("hive", "hives"), "en"), (("маяк", "маяка", "маяке", "маяков"), "ru"), (("Teig", "Teige", "Teiges"), "de")],
)  # fmt: skip
def test_forms_of_a_word_have_one_stem(forms: tuple[str, ...], language: str) -> None:
    assert len({stem(form, language) for form in forms}) == 1


# -- readability ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language", "score"),
    [
        # 206.835 - 1.015 * 6 - 84.6 * 1
        ("The cat sat on the mat.", "en", 116.1),
        # 206.835 - 1.3 * 3 - 60.1 * 5/3
        ("Мама мыла рамы.", "ru", 82.7),
        # 180 - 3 - 58.5 * 4/3
        ("Der Hund schläfer.", "de", 99.0),
    ],
)
def test_the_formulas_give_what_they_give_by_hand(text: str, language: str, score: float) -> None:
    assert measure(text, language).score == pytest.approx(score, abs=0.1)


def test_long_sentences_of_long_words_are_harder() -> None:
    easy = measure("We came. We saw it. We left.", "en")
    hard = measure(
        "Considerable administrative difficulties necessitate reconsideration of our organisation.", "en"
    )
    assert easy.score > 100 > 0 > hard.score


def test_a_text_without_words_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="no words"):
        measure("1 2 3 ...", "en")


# -- summaries and keywords -----------------------------------------------------------------------------------


def test_a_summary_takes_the_sentences_that_the_others_lean_on() -> None:
    text = (
        "The harbour was built for whaling ships. My aunt prefers green umbrellas to red ones. "
        "Whaling ships left the harbour every spring. In autumn the ships came back to the harbour with oil. "
        "Lunch was late."
    )
    assert all("harbour" in one for one in summary.summarise(text, "en", 3))


def test_a_summary_keeps_the_order_and_takes_short_texts_whole() -> None:
    text = "Bees fly far. Bees dance for other bees. A dance tells other bees the way."
    assert summary.summarise(text, "en", 10) == [
        one for one in sentences(text, "en") if one != "Bees fly far."
    ]
    found = summary.summarise((INPUT / "bees.txt").read_text("utf-8"), "en", 5)
    plain = " ".join((INPUT / "bees.txt").read_text("utf-8").split())
    assert [plain.index(one) for one in found] == sorted(plain.index(one) for one in found)


def test_what_is_too_long_for_a_summary_says_so() -> None:
    with pytest.raises(ValueError, match="split it first"):
        summary.summarise("This is one more sentence. " * 401, "en", 3)


def test_parts_are_whole_and_not_too_long() -> None:
    text = (INPUT / "bees.txt").read_text("utf-8")
    parts = summary.split(text, "en", 60)
    assert " ".join(" ".join(parts).split()) == " ".join(text.split())
    assert all(len(part.split()) < 90 for part in parts)
    assert len(parts) >= 8


def test_keywords_are_what_a_text_repeats() -> None:
    text = "The sea ice melts. Sea ice is white. When sea ice breaks, bears swim. A bear likes fish."
    assert [(one["phrase"], one["count"]) for one in keywords(text, "en", 2)] == [
        ("sea ice", 3),
        ("bears", 2),
    ]


def test_forms_of_a_word_are_one_keyword() -> None:
    (found,) = keywords("Линза тяжёлая. Линзу чистят. Без линзы темно.", "ru", 1)
    assert found["count"] == 3


# -- plain words ----------------------------------------------------------------------------------------------


def test_heavy_phrases_become_light_and_each_change_is_told() -> None:
    done = simplify("In order to enter, residents are required to notify the office.", "en", 50)
    assert done.text == "To enter, residents must tell the office."
    assert set(done.changes) == {"In order to -> To", "are required to -> must", "notify -> tell"}


def test_behind_an_article_nothing_is_replaced() -> None:
    text = "We need an additional room and the assistance of friends."
    assert simplify(text, "en", 50).text == text


def test_the_longest_sentence_is_cut_at_the_seam_nearest_its_middle() -> None:
    text = "We looked for the key in every room of the house, but the key was not in any of them."
    done = simplify(text, "en", 10)
    assert (
        done.text == "We looked for the key in every room of the house. But the key was not in any of them."
    )


def test_a_sentence_without_a_seam_is_left_alone() -> None:
    text = "We looked for the key in every single room of the very old house on the hill."
    assert simplify(text, "en", 5) == simplify(text, "en", 50)


@pytest.mark.parametrize("file", ["notice", "prikaz"])
def test_simplifying_comes_to_an_end_and_makes_it_easier(file: str) -> None:
    text = (INPUT / f"{file}.txt").read_text("utf-8")
    language = detect_language(text)
    before = measure(text, language).score
    for _ in range(10):
        done = simplify(text, language, 22)
        text = done.text
        if not done.changes:
            break
    assert not done.changes
    assert measure(text, language).score > before + 15


# -- tables ---------------------------------------------------------------------------------------------------


def test_a_table_says_what_is_wrong_where() -> None:
    table = tables.read("id;day;price\n1;2025-01-01;2,5\n1;2025-01-01;2,5\nx;2025-02-30;\n4;2025-01-02\n")
    assert table.delimiter == ";"
    found = tables.check(table, {"id": "integer", "day": "date", "price": "number"})
    assert [(one["line"], one["column"], one["problem"]) for one in found] == [
        (3, "", "the same as line 2"),
        (4, "id", "no integer: x"),
        (4, "day", "no date: 2025-02-30"),
        (4, "price", "empty"),
        (5, "", "2 cells, and 3 columns"),
    ]
    assert tables.clean(table, found) == "id;day;price\n1;2025-01-01;2,5\n"


def test_a_cell_over_several_lines_counts_them_all() -> None:
    table = tables.read('a,b\n"one\ntwo",x\n3,y\n')
    assert table.rows == [(2, ["one\ntwo", "x"]), (4, ["3", "y"])]


def test_what_may_be_empty_may_be() -> None:
    assert tables.check(tables.read("a,b\n1,\n"), {"b": "number?"}) == []


@pytest.mark.parametrize("cell", ["nan", "inf", "-inf", "1e999"])
def test_what_is_not_finite_is_no_number(cell: str) -> None:
    (found,) = tables.check(tables.read(f"a,b\n1,{cell}\n"), {"b": "number"})
    assert found["problem"] == f"no number: {cell}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a,,b\n", "columns need names"),
        ("a,a\n", "columns need names"),
        ('a,b\n"open,1\n', "line 2: not CSV"),
    ],
)
def test_what_is_no_table_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tables.read(text)


@pytest.mark.parametrize(
    ("types", "message"),
    [({"c": "text"}, "no column c: there are a, b"), ({"a": "colour"}, "no type 'colour'")],
)
def test_a_check_that_makes_no_sense_says_why(types: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tables.check(tables.read("a,b\n1,2\n"), types)


def test_figures_are_those_of_the_column() -> None:
    numbers, letters = tables.describe(tables.read("n,l\n1,a\n2,b\n6,a\n"))
    assert numbers == {
        "column": "n", "filled": 3, "different": 3, "kind": "number", "sum": 9.0, "mean": 3.0, "median": 2.0,
        "deviation": 2.65, "least": 1.0, "most": 6.0,
    }  # fmt: skip
    assert letters == {"column": "l", "filled": 3, "different": 2, "kind": "text", "common": {"a": 2, "b": 1}}


def test_outliers_are_far_from_the_rest() -> None:
    table = tables.read("id,n\n" + "".join(f"{n},{n}\n" for n in range(10)) + "big,99\n")
    assert tables.outliers(table, "n") == [{"row": "big", "value": 99.0}]
    with pytest.raises(ValueError, match="takes four"):
        tables.outliers(tables.read("id,n\n1,1\n2,x\n"), "n")


# -- logs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "severity", "pattern"),
    [
        (
            '1.2.3.4 - - [04/Mar/2025:10:00:00 +0000] "GET /a?x=1 HTTP/1.1" 404 12',
            "warning",
            "GET /a -> HTTP 404",
        ),
        (
            '1.2.3.4 - - [04/Mar/2025:10:00:00 +0000] "POST /a/7 HTTP/1.1" 503 -',
            "error",
            "POST /a/<n> -> HTTP 503",
        ),
        ('{"level": "WARN", "msg": "try 3 of 5"}', "warning", "try <n> of <n>"),
        ('{"severity": "fatal", "message": "gone"}', "critical", "gone"),
        ("2025-03-04T10:00:00Z ERROR no file 'a b' at 0xdeadbeef", "error", "no file <text> at <hex>"),
        (
            "Mar  4 10:00:00 host kernel: Out of memory: killed 812",
            "critical",
            "kernel: Out of memory: killed <n>",
        ),
        ("Mar  4 10:00:00 host app[7]: refused by 10.0.0.1:80", "error", "app: refused by <ip>"),
        ("Mar  4 10:00:00 host app[7]: hello", "info", "app: hello"),
    ],
)
def test_a_line_is_read_for_what_it_is(line: str, severity: str, pattern: str) -> None:
    (group,) = logs.triage(line).groups
    assert (group.severity, group.pattern) == (severity, pattern)


@pytest.mark.parametrize(
    "line", ["free text", '{"level": "info"', '{"level": "info"}', '{"message": 7}', "{" * 5000]
)
def test_what_cannot_be_read_is_counted(line: str) -> None:
    found = logs.triage(line)
    assert (found.lines, found.unread, found.groups) == (1, 1, [])


def test_the_gravest_and_commonest_comes_first() -> None:
    text = "\n".join(
        f"2025-03-04 10:00:{n:02} {level} {message} {n}"
        for n, (level, message) in enumerate(
            [
                ("ERROR", "a"),
                ("ERROR", "b"),
                ("ERROR", "b"),
                ("CRITICAL", "c"),
                ("WARNING", "d"),
                ("INFO", "e"),
            ]
        )
    )
    found = logs.triage(text).to_dict(top=3)
    assert [(one["severity"], one["pattern"], one["count"]) for one in found["groups"]] == [
        ("critical", "c <n>", 1),
        ("error", "b <n>", 2),
        ("error", "a <n>", 1),
    ]
    assert (found["errors"], found["worst"]) == (4, "critical")
    assert found["groups"][1]["first_line"] == 2
    assert found["groups"][1]["last_time"] == "2025-03-04 10:00:02"


# -- links ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        "[a](b.md)", "[a](b.md#two-words)", "[a](#top)", "[a](sub/)", "![a](pic.png)", "[a](https://example.com/x.md)",
        "[a](mailto:x@example.com)", '[a](b.md "title")', "[a](<b.md>)", "[a][r]\n\n[r]: b.md", "[r][]\n\n[r]: b.md",
        "`[a](none.md)`", "```\n[a](none.md)\n```", "[a](b.md#two-words-1)", "[a](c%20d.md)",
    ],
)  # fmt: skip
def test_a_sound_link_is_sound(link: str) -> None:
    texts = {
        "a.md": f"# Top\n\n{link}\n",
        "b.md": "# Two words\n\n## Two words\n",
        "sub/x.md": "",
        "c d.md": "",
    }
    assert links.check("a.md", texts, frozenset({"pic.png"}))["broken"] == []


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[a](none.md)", "no file docs/none.md"),
        ("[a](../none.md)", "no file none.md"),
        ("[a](#none)", "no heading #none in docs/a.md"),
        ("![a](none.png)", "no file docs/none.png"),
        ("[a][none]", "nothing defines [none]"),
        ("[r]: none.md", "no file docs/none.md"),
        ("[![x](none.png)](a.md)", "no file docs/none.png"),
    ],
)
def test_a_broken_link_is_named_with_its_line(link: str, problem: str) -> None:
    (found,) = links.check("docs/a.md", {"docs/a.md": f"# Top\n\n{link}\n"})["broken"]
    assert (found["line"], found["problem"]) == (3, problem)


@pytest.mark.timeout(60)  # unbounded patterns take minutes over these
@pytest.mark.parametrize("piece", ["```a\n", "`", "[a](", "[a](<x", "[a]", "~~~x\n", "[a][b]"])
def test_a_hostile_page_does_not_hold_the_agent_up(piece: str) -> None:
    links.check("a.md", {"a.md": (piece * 100_000)[: 256 * 1024]})


@pytest.mark.timeout(60)
def test_a_hostile_line_or_sentence_does_not_hold_the_agents_up() -> None:
    logs.triage('1.2.3.4 - - [x] "GET /' + "0" * 256 * 1024)
    simplify(("a b c d e, and the " * 20_000)[: 256 * 1024], "en", 20)


# -- reports --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("One.\n\nTwo.", "One.\n\nTwo."),
        (["a", 2, None, True], "- a\n- 2\n- \n- yes"),
        ({"a": 1, "b": ["x", "y"]}, "- a: 1\n- b: x, y"),
        ([{"a": 1}, {"b": "x|y"}], "| a | b |\n| --- | --- |\n| 1 |  |\n|  | x\\|y |"),
        ([["a"], ["b", "c"]], "- a\n- b\n- c"),
        ([], "Nothing."),
        ("", "Nothing."),
        ("<b>*no*</b>", "\\<b\\>\\*no\\*\\</b\\>"),
        ({"s": ["One.", "Two."]}, "- s: One. Two."),
    ],
)
def test_a_section_is_shown_as_what_it_is(body: Any, shown: str) -> None:
    assert report("T", [{"heading": "H", "body": body}]) == f"# T\n\n## H\n\n{shown}\n"


@pytest.mark.parametrize(
    "section", [{}, {"heading": ""}, {"heading": "H"}, {"heading": "H", "body": [1, {}]}]
)
def test_what_is_no_section_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="section"):
        report("T", [section])
