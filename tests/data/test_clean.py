import pytest

from lm_jax.core.config import InputError
from lm_jax.data.clean import chain, report, steps
from lm_jax.data.clean.chain import CleanConfig


def cleaned(document, **settings):
    counts = report.empty()
    return chain.clean(document, CleanConfig(**settings), counts), counts


@pytest.mark.parametrize(
    ("document", "text", "changed"),
    [
        (b"plain text", "plain text", {}),
        ("\ufeffmark".encode(), "mark", {}),
        ("caf\u00e9 cr\u00e8me".encode("latin-1"), "café crème", {"decode (not UTF-8, read as cp1252)": 1}),
        ("“curly” – dash".encode("cp1252"), "“curly” – dash", {"decode (not UTF-8, read as cp1252)": 1}),
        ("你好世界".encode() + b"\xff", "你好世界\ufffd", {"decode (damaged)": 1}),
        ("one\ud83d\ude00 half\ud83d", "one😀 half\ufffd", {"decode (damaged)": 1}),
        (b"a\r\nb\rc\n", "a\nb\nc", {"line_breaks": 1, "whitespace": 1}),
        ("na\u00c3\u00afve text", "naïve text", {"repair": 1}),
        ("e\u0301t\u00e9", "été", {"compose": 1}),
        (b"a\x00b\x1b[31mred\x1b[0m\tc\x0c", "a bred\tc", {"controls": 1}),
        (b"a\x01b\x08c\x7fd", "abcd", {"controls": 1}),
        (b"Title\x0cSubtitle", "Title Subtitle", {"controls": 1}),
        (b"one\x0btwo\x00three\x1cfour\x1d\x1e\x1ffive", "one two three four five", {"controls": 1}),
        ("第一\x0c第二".encode(), "第一 第二", {"controls": 1}),
        (b"a \x0cb\x0c c \x0c d\x0c \x0c\x01 \x0ce", "a b c d e", {"controls": 1}),
        (b"a\x0c\tb\t\x00c", "a\tb\tc", {"controls": 1}),
        (
            b"page 1\n\x0cpage 2\x0c\n\x0c\n    \x0c\nend\x0c",
            "page 1\npage 2\n\n\nend",
            {"controls": 1, "whitespace": 1},
        ),
        (b"\x0c    indented\n\x0c\tand so", "    indented\n\tand so", {"controls": 1}),
        ("a\u3000\x0cb\x0c\u3000c", "a\u3000b\u3000c", {"controls": 1}),
        (b"  indented  \n\n\n\n\n\nend \t\n\n", "  indented\n\n\nend", {"whitespace": 1}),
        ("“Quotes” and ｆｕｌｌ width，ﬁ stay", "“Quotes” and ｆｕｌｌ width，ﬁ stay", {}),
        ("👩‍👧 🏳️‍🌈 你好，世界。", "👩‍👧 🏳️‍🌈 你好，世界。", {}),
        (b"\tif x:\n\t\treturn  1", "\tif x:\n\t\treturn  1", {}),
    ],
)
def test_steps_change_a_document_and_are_counted(document, text, changed):
    result, counts = cleaned(document)

    assert result == text
    assert counts["changed"] == changed
    assert counts["kept"] == {"documents": 1, "bytes": len(text.encode())}


@pytest.mark.parametrize("name", steps.STEPS)
@pytest.mark.parametrize(
    "text", ["a\r\n b \x00", "Ã© é e\u0301\n\n\n\n\n", "\ufeff“x” \u2028", "plain", "a\x0cb \x00 \x1c c\n\x0b d\x0c"]
)
def test_steps_are_idempotent(name, text):
    once = steps.STEPS[name](text)

    assert steps.STEPS[name](once) == once


@pytest.mark.parametrize(
    ("document", "settings", "reason"),
    [
        (b" \n\t\n", {}, "empty"),
        (b"\x00\x01", {}, "empty"),
        (b"hi", {"min_characters": 3}, "short"),
        (b"too long", {"max_characters": 5}, "long"),
        (b"\xe9\xe8 latin", {"encoding": ""}, "undecodable"),
    ],
)
def test_a_dropped_document_is_counted_with_its_reason(document, settings, reason):
    result, counts = cleaned(document, **settings)

    assert result is None
    assert counts["read"] == {"documents": 1, "bytes": len(document)}
    assert counts["dropped"] == {reason: {"documents": 1, "bytes": len(document)}}
    assert counts["kept"] == {"documents": 0, "bytes": 0}


def test_without_steps_the_decoded_text_does_not_change():
    assert cleaned(b"a\r\n\x00 ", steps=())[0] == "a\r\n\x00 "


def test_reports_add_up_and_can_be_printed():
    counts = [cleaned(document)[1] for document in (b"one ", b"two", b" ")]

    total = report.total(counts)

    assert total["read"] == {"documents": 3, "bytes": 8}
    assert total["kept"] == {"documents": 2, "bytes": 6}
    lines = report.table(total).splitlines()
    assert lines[0].split()[:3] == ["documents", "read", "3"]
    assert any(line.split()[:3] == ["dropped:", "empty", "1"] for line in lines)
    assert lines[-1].split() == ["changed:", "whitespace", "2"]


def test_a_long_reason_does_not_run_into_its_count():
    counts = report.empty()
    report.count(counts, "dropped", 5, "bad row (no field 'a_field_with_a_long_name')")

    lines = report.table(counts).splitlines()

    assert lines[-1].startswith("dropped: bad row (no field 'a_field_with_a_long_name')  ")
    assert len({len(line) for line in lines}) == 1


def test_a_summary_is_empty_without_problems():
    assert report.summary(cleaned(b"well \r\n")[1]) == []


def test_a_summary_lists_dropped_guessed_and_damaged_documents():
    latin, damaged = "crème brûlée".encode("latin-1"), "你好世界".encode() + b"\xff"
    counts = report.total(cleaned(document)[1] for document in (b"one", b" ", latin, damaged))
    report.count(counts, "dropped", 3, "duplicate")

    assert report.summary(counts) == [
        "2 of 4 documents dropped: 1 duplicate, 1 empty",
        "1 document is damaged: U+FFFD stands for each byte that is not UTF-8",
        "1 document is not UTF-8 and was read as cp1252 (config.data.clean.encoding)",
    ]
    twice = report.total([counts, counts, cleaned(latin, encoding="latin-1")[1]])
    report.count(twice, "dropped", 3, "bad row (not JSON)")
    assert report.summary(twice) == [
        "5 of 9 documents dropped: 1 bad row (not JSON), 2 duplicates, 2 empty",
        "2 documents are damaged: U+FFFD stands for each byte that is not UTF-8",
        "2 documents are not UTF-8 and were read as cp1252 (config.data.clean.encoding)",
        "1 document is not UTF-8 and was read as latin-1 (config.data.clean.encoding)",
    ]


def test_a_report_of_an_earlier_version_has_a_summary():
    earlier = {**report.empty(), "changed": {"decode (fallback)": 2, "controls": 1}}

    assert report.summary(earlier) == [
        "2 documents are not UTF-8 and were read as another encoding (config.data.clean.encoding)"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ("whitespaces",)}, "config.data.clean.steps is 'whitespaces'.*did you mean whitespace"),
        ({"encoding": "klingon"}, "config.data.clean.encoding is 'klingon'"),
        ({"min_characters": 9, "max_characters": 5}, "config.data.clean.max_characters is 5"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        chain.check(CleanConfig(**settings))
