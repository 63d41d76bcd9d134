"""Markdown as a tree of plain nodes, of which the browser makes elements: nothing that was written becomes markup."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])

_TAGS = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "hr": "hr",
    "hardbreak": "br",
    "em": "em",
    "strong": "strong",
    "s": "s",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "th": "th",
    "td": "td",
}

_HIGHEST = 2
"""A heading of the first level is one below those of the page's sections."""

_SAFE = ("http://", "https://", "mailto:", "?")
"""Where a link may lead: elsewhere in the web, to a mailbox, or to another page of the studio."""

_LONGEST = 30_000
"""Characters that are read as Markdown: it takes seconds for the longest notes, in which no page is answered."""

_DEEPEST = 30
"""How far one thing may lie in another. Nobody writes so, and whatever passes the tree on would not come to its end."""

_BEGINNING = 1_000
"""Characters among which the words of an excerpt are looked for."""


@lru_cache(maxsize=64)
def tree(source: str) -> list[Any]:
    """Nodes: text, or `{"tag": …, "children": […]}` with `href` (links) or `start` (numbered lists).

    HTML stays the text that it was written as. A picture becomes a link to it, so that nothing is loaded unasked. What
    is too long or too deep is shown as it was written.
    """
    if len(source) <= _LONGEST:
        try:
            return _children(SyntaxTreeNode(_PARSER.parse(source)), 0)
        except RecursionError:
            pass  # The parser's own limit does not count emphasis.
    return [{"tag": "pre", "children": [source]}]


@lru_cache(maxsize=1_024)
def excerpt(source: str, most: int = 120) -> str:
    """The beginning of what is said, in one line without its marks."""
    words = " ".join(_text(tree(source[:_BEGINNING])).split())
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"


def _children(node: SyntaxTreeNode, depth: int) -> list[Any]:
    if depth > _DEEPEST:
        raise RecursionError
    return [made for child in node.children for made in _made(child, depth + 1)]


def _made(node: SyntaxTreeNode, depth: int) -> list[Any]:
    match node.type:
        case "text":
            return [node.content] if node.content else []
        case "softbreak":
            return ["\n"]
        case "code_inline":
            return [{"tag": "code", "children": [node.content]}]
        case "fence" | "code_block":
            return [{"tag": "pre", "children": [{"tag": "code", "children": [node.content.rstrip("\n")]}]}]
        case "heading":
            return [{"tag": f"h{min(6, int(node.tag[1:]) + _HIGHEST)}", "children": _children(node, depth)}]
        case "image":
            return _link(str(node.attrs.get("src", "")), [node.content or str(node.attrs.get("src", ""))])
        case "link":
            return _link(str(node.attrs.get("href", "")), _children(node, depth))
        case "ordered_list":
            return [{"tag": "ol", "start": node.attrs.get("start", 1), "children": _children(node, depth)}]
        case kind if kind in _TAGS:
            return [{"tag": _TAGS[kind], "children": _children(node, depth)}]
        case _:
            return _children(node, depth)


def _link(href: str, children: list[Any]) -> list[Any]:
    if not href.lower().startswith(_SAFE):
        return children
    return [{"tag": "a", "href": href, "children": children}]


_APART = ("p", "li", "td", "th", "pre", "br", "h3", "h4", "h5", "h6")


def _text(nodes: list[Any]) -> str:
    parts: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            parts.append(node)
        else:
            parts.append(_text(node["children"]) + (" " if node["tag"] in _APART else ""))
    return "".join(parts)
