"""What may be asked of a replica by people whom its keeper does not know: questions, and nothing that changes anything.

This is the first of several walls and the one with the good sentences. Behind it the transaction is read-only, the
database reaches nothing outside itself, and the process has limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import duckdb
import msgspec
from duckdb import DuckDBPyConnection

from .table import first

LONGEST = 100_000
"""Characters that a statement may have."""

QUESTIONS = "SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN"

_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE", "STATEMENT_NODE"})
_TABLE_FUNCTIONS = frozenset(
    {
        "range",
        "generate_series",
        "unnest",
        "json_each",
        "json_tree",
        "duckdb_columns",
        "duckdb_functions",
        "duckdb_keywords",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "pragma_table_info",
    }
)
_FUNCTIONS = frozenset(
    {"current_setting", "getenv", "getvariable", "nextval", "currval", "sleep_ms", "write_log", "set_config"}
)
_SCHEMAS = frozenset({"", "main", "raw", "information_schema"})
_SYSTEM_TABLE = re.compile(r"(duckdb|pragma|sqlite|pg)_", re.IGNORECASE)
_SYSTEM_TABLES = frozenset({"duckdb_columns", "duckdb_tables", "duckdb_types", "duckdb_views"})
_PLAN = "EXPLAIN "
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?", re.IGNORECASE)
_LINE = re.compile(r"^LINE (\d+): (.*)\n( *)\^", re.MULTILINE)


class StatementRefused(Exception):
    """A statement is not answered; `str()` is a sentence. `line` and `column`, from 1, are where it is wrong."""

    def __init__(self, sentence: str, *, line: int | None = None, column: int | None = None) -> None:
        self.line = line
        self.column = column
        super().__init__(sentence)


def check(con: DuckDBPyConnection, statement: str) -> None:
    """Raises `StatementRefused` unless the statement is one question about the database's own tables."""
    if len(statement) > LONGEST:
        raise StatementRefused(f"A statement may have {LONGEST:,} characters; this one has {len(statement):,}.")
    try:
        found = con.extract_statements(statement)
    except duckdb.Error as error:
        raise refusal(error, statement) from error
    if not found:
        raise StatementRefused("There is nothing to answer. Try: SELECT * FROM trainings")
    if len(found) > 1:
        raise StatementRefused(f"One statement is answered at a time; these are {len(found)}.")
    kind = found[0].type.name
    asked = statement
    if kind == "EXPLAIN":
        # Only at its very beginning: elsewhere the word may stand in a comment, and what follows it be another's.
        explained = _EXPLAIN.match(statement)
        if explained is None:
            raise StatementRefused("A question that begins with EXPLAIN has nothing before it, no comment either.")
        asked = statement[explained.end() :]
    elif kind != "SELECT":
        what = "PIVOT as a statement" if kind == "MULTI" else kind.replace("_", " ")
        raise StatementRefused(f"Only questions are answered: {QUESTIONS}. This is {what}.")
    for reason in _reasons(_tree(con, asked)):
        raise StatementRefused(reason)


def _tree(con: DuckDBPyConnection, statement: str) -> Any:
    serialised = first(con, "SELECT json_serialize_sql(?)", [statement])
    assert serialised is not None
    try:
        tree = msgspec.json.decode(serialised[0])
    except RecursionError:
        raise StatementRefused("The statement is nested too deeply.") from None
    if tree.get("error"):
        raise StatementRefused(
            f"Only questions are answered: {QUESTIONS}. This is something else ({tree.get('error_message')})."
        )
    if len(tree.get("statements") or ()) != 1:
        raise StatementRefused(f"Only questions are answered: {QUESTIONS}. There is none in this.")
    return tree


def _reasons(tree: Any) -> Iterator[str]:
    """Why a parsed statement is not answered; nothing where it is."""
    pending: list[Any] = [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending.extend(cast(list[Any], part))
            continue
        if not isinstance(part, dict):
            continue
        node = cast(dict[str, Any], part)
        pending.extend(node.values())
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _NODES:
            yield f"Only questions are answered, also inside WITH. This has {kind.partition('_')[0]} in it."
        if kind == "TABLE_FUNCTION":
            called = cast(dict[str, Any], node.get("function") or {})
            name = str(called.get("function_name", "")).lower()
            if name not in _TABLE_FUNCTIONS:
                yield (
                    f"The table function {name} is not available here: a question reads the views, and no file,"
                    " network, setting or other statement."
                )
        elif kind == "BASE_TABLE":
            yield from _about_table(node)
        if (name := str(node.get("function_name", "")).lower()) in _FUNCTIONS:
            yield f"The function {name} is not available here: it is about the server, not about trainings."


def _about_table(node: dict[str, Any]) -> Iterator[str]:
    schema, table = str(node.get("schema_name", "")), str(node.get("table_name", ""))
    if schema.lower() not in _SCHEMAS:
        yield f"The schema {schema} is not available here; there are main (the views) and raw (what they are made of)."
    if _SYSTEM_TABLE.match(table) and table.lower() not in _SYSTEM_TABLES:
        yield f"The table {table} is not available here: it is about the server, not about trainings."


def planned(con: DuckDBPyConnection, statement: str) -> None:
    """Plans a statement. Raises `StatementRefused` with the place that is wrong, which a relation does not tell."""
    try:
        con.execute(f"{_PLAN}{statement}").fetchall()
    except duckdb.Error as error:
        raise refusal(error, statement, before=len(_PLAN)) from error


def refusal(error: Exception, statement: str, before: int = 0) -> StatementRefused:
    """What DuckDB says of a statement, with the line and the column that it points at.

    `before` characters were put before the statement.
    """
    text = str(error)
    sentence = " ".join(text.partition("\nLINE ")[0].split()) or type(error).__name__
    if not sentence.endswith((".", "!", "?")):
        sentence += "."
    found = _LINE.search(text)
    if found is None:
        return StatementRefused(sentence)
    line, shown = int(found.group(1)), found.group(2)
    at = len(found.group(3)) - len(f"LINE {line}: ")
    lines = statement.split("\n")
    if shown.startswith("...") and line <= len(lines):
        # Of a long line DuckDB shows a part, with dots before it.
        at += lines[line - 1].find(shown[3:].removesuffix("...")) - 3
    elif line == 1:
        at -= before
    column = max(1, at + 1)
    return StatementRefused(f"Line {line}, column {column}: {sentence}", line=line, column=column)
