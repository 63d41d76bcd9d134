"""A note is shown as it was meant, and nothing in it becomes markup, loads anything or leads anywhere unsafe."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.state import markdown


def test_marks_become_elements() -> None:
    assert markdown.tree("# Why\n\n*wide* and **deep**\n\n3. `k`") == [
        {"tag": "h3", "children": ["Why"]},
        {
            "tag": "p",
            "children": [
                {"tag": "em", "children": ["wide"]},
                " and ",
                {"tag": "strong", "children": ["deep"]},
            ],
        },
        {
            "tag": "ol",
            "start": 3,
            "children": [
                {"tag": "li", "children": [{"tag": "p", "children": [{"tag": "code", "children": ["k"]}]}]}
            ],
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    "written",
    ["<b>bold</b>", "<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "<!-- a comment -->", "<a b='c'>"],
)
def test_html_stays_the_text_that_it_was_written_as(written: str) -> None:
    assert markdown.tree(written) == [{"tag": "p", "children": [written]}]


@pytest.mark.parametrize(
    ("written", "href"),
    [
        ("[a](https://b.c/d?e=f)", "https://b.c/d?e=f"),
        ("[a](?training=one)", "?training=one"),
        ("<mailto:a@b.c>", "mailto:a@b.c"),
        ("![a](https://b.c/d.png)", "https://b.c/d.png"),
        ("[a](javascript:alert(1))", None),
        ("[a](data:text/html,b)", None),
        ("[a](//b.c)", None),
        ("[a](/api/v1/trainings)", None),
        ("[a](java&#115;cript:alert(1))", None),
    ],
)
def test_links_lead_only_where_it_is_safe_and_pictures_are_links(written: str, href: str | None) -> None:
    found = [node.get("href") for node in nodes(markdown.tree(written))]
    assert [one for one in found if one is not None] == ([] if href is None else [href])
    assert "img" not in {node["tag"] for node in nodes(markdown.tree(written))}


@given(st.text(alphabet=st.sampled_from("a<>[]()!*_`#-|:\"'&;\n /\\j"), max_size=60))
def test_whatever_is_written_only_known_elements_come_of_it(written: str) -> None:
    known = {
        "p", "ul", "ol", "li", "blockquote", "hr", "br", "em", "strong", "s", "table", "thead", "tbody", "tr", "th",
        "td", "a", "code", "pre", "h3", "h4", "h5", "h6",
    }  # fmt: skip
    assert {node["tag"] for node in nodes(markdown.tree(written))} <= known


def test_an_excerpt_is_one_line_without_marks() -> None:
    assert markdown.excerpt("# Why\n\n- *wide*\n- deep") == "Why wide deep"
    assert len(markdown.excerpt("word " * 100)) == 120
    assert markdown.excerpt("") == ""


def nodes(tree: list[Any]) -> list[dict[str, Any]]:
    """Every element of a tree."""
    found: list[dict[str, Any]] = []
    for node in tree:
        if isinstance(node, dict):
            found += [node, *nodes(node["children"])]
    return found


@pytest.mark.parametrize(
    "written",
    ["*" * 80 + "a" + "*" * 80, "*" * 600 + "a" + "*" * 600, "*a " * 2_000 + "b*" * 2_000, "x" * 100_000],
)
def test_what_is_too_deep_or_too_long_is_shown_as_it_was_written(written: str) -> None:
    assert markdown.tree(written) == [{"tag": "pre", "children": [written]}]
    assert markdown.excerpt(written)
