"""Item texts: HTML entities and tags, control characters, nested lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.readers.item_text import MAX_CHARACTERS, clean, flat_text, is_page_code, sentences, text_parts


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ("Toy &amp; Story", "Toy & Story"),
        ("L&#39;Or&eacute;al", "L'Oréal"),
        ("<b>Bold</b> <br/>text", "Bold text"),
        ("&lt;p&gt;escaped tag&lt;/p&gt;", "escaped tag"),
        ("&amp;quot;twice&amp;quot;", '"twice"'),
        ("<script>var a = 1 < 2;</script>kept<style>p{}</style>", "kept"),
        ("<!-- hidden -->seen", "seen"),
        ("3 < 4 > 2 and i <3 you", "3 < 4 > 2 and i <3 you"),
        ("Size <M and >L, <Gold> <i>ring</i>", "Size <M and >L, <Gold> ring"),
        ("a\x00b\tc\n\nd\u00a0e", "a b c d e"),
        ("half of a pair \ud800", "half of a pair \ufffd"),
        ("  ", ""),
    ],
)
def test_clean(upstream: str, expected: str) -> None:
    assert clean(upstream) == expected


@given(st.text(alphabet=st.sampled_from("ab <>&;/!-#39ltgamp\x00\n"), max_size=60))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_the_length_of_hostile_text_is_limited() -> None:
    assert len(clean("<script" * 1_000_000)) <= MAX_CHARACTERS
    assert clean("&" + "amp;" * 3000) == "&"


def test_nested_fields_become_distinct_parts() -> None:
    assert text_parts([["Beauty", "Hair &amp; Care"], ["Beauty", "Oils", ""], None]) == ["Beauty", "Hair & Care", "Oils"]
    assert flat_text([1, 2.5, float("nan"), True], "|") == "1|2.5|True"
    assert flat_text(None) == ""
    assert flat_text({"a": 1}) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("var aPageStart = (new Date()).getTime();", True),
        ("(function(f) {var _np=(window.P._namespace);", True),
        (".a-box { color: red }", True),
        ("Multi-function(4 in 1) Tool", False),
        ("Integral function(s) of Bessel", False),
    ],
)
def test_page_code_is_recognized(text: str, expected: bool) -> None:
    assert is_page_code(text) == expected


def test_sentences_omit_empty_texts() -> None:
    assert sentences(("", "Brush."), ("brand", ""), ("price", "12.5")) == "Brush. price: 12.5"
