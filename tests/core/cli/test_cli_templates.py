"""`saestudio templates`: what is exported is imported elsewhere, after a look at what that would do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_harness import Cli

pytestmark = pytest.mark.slow


def test_templates_are_listed_exported_and_imported_after_a_look(served: Cli, tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    entries = [{"name": "first", "config": {"k": 4}}, {"name": "second", "config": {"model": "demo"}}]
    document = {"format": "saestudio-templates", "version": 1, "templates": entries}
    file.write_text(json.dumps(document))
    looked = served("templates", "import", str(file), "--dry-run")
    assert (looked.status, looked.out.count("new"), looked.err) == (0, 2, "Nothing was written.\n")
    assert "first" not in served("templates", "list").out
    assert served("templates", "import", str(file)).out.endswith("2 templates created.\n")
    assert "first" in served("templates", "list").out
    assert [row["name"] for row in served("templates", "list", "demo", "--json").json()["data"]] == ["second"]

    one = served("templates", "export", "first").json()["templates"]
    assert [(template["name"], template["config"]["k"]) for template in one] == [("first", 4)]
    entries = [{"name": "first", "config": {"k": 5}}, {"name": "second", "config": {"k": "many"}}]
    file.write_text(json.dumps({**document, "templates": entries}))
    looked = served("templates", "import", str(file), "--dry-run", "--conflicts", "overwrite").out
    assert "overwrite: differs in k" in looked
    assert "skip: k must be" in looked
    said = served("templates", "import", str(file), "--conflicts", "overwrite").out
    assert said.endswith("1 template overwritten, 1 template skipped.\n")
    written = served("templates", "export", "--to", str(tmp_path / "all.json"))
    assert "2 templates in" in written.out
    kept = json.loads((tmp_path / "all.json").read_text())["templates"]
    assert {one["name"]: one["config"].get("k") for one in kept}["first"] == 5


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is not JSON"), ("[]", "holds no templates"), ("{}", "format must be")]
)
def test_what_holds_no_templates_is_refused_with_a_sentence(
    served: Cli, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "notes.json").write_text(content)
    refused = served("templates", "import", str(tmp_path / "notes.json"))
    assert refused.status == 1
    assert said in refused.err
    assert "cannot be read" in served("templates", "import", str(tmp_path / "nothing")).err
    assert "No template has the name or id 'unheard'" in served("templates", "export", "unheard").err
