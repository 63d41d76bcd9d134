"""The templates page: what its list shows, what an import would do, and what became of a template, in words."""

from __future__ import annotations

import msgspec

from events.training import TrainingConfig
from ui.answers import Imported, ImportEntry, Template, TemplateVersion
from ui.state import template_import
from ui.state.template_history import history_view
from ui.state.templates import TemplatesView, templates_page

TOPK = TrainingConfig(model="owner/small", datasets=("stdlib", "owner/words"), k=12)
TEMPLATES = (
    Template(id="a", name="one", config=TOPK),
    Template(id="b", name="two", config=TrainingConfig(activations="/kept/clip", architecture_type="jumprelu")),
    Template(id="c", name="three", config=TrainingConfig()),
)


def test_the_address_says_what_is_shown_and_the_filters_count_what_the_search_finds() -> None:
    view = TemplatesView(q="o", sort="-updated", architecture="topk", model="owner/small", dataset="stdlib")
    assert TemplatesView.of(view.route()) == view
    assert TemplatesView.of({"sort": "size"}) == TemplatesView()
    shown = templates_page(view, TEMPLATES, selected={"a", "b"})
    assert [row["id"] for row in shown["rows"]] == ["a"]
    # What a filter hides is not exported, though it was selected.
    assert shown["selection"] == {"label": "1 selected", "export": "api/v1/templates/export?ids=a"}
    architectures, models, _ = shown["filters"]
    assert architectures["options"] == [["", "All architectures"], ["topk", "TopK (2)"], ["jumprelu", "JumpReLU (1)"]]
    assert models["options"][1:] == [["owner/small", "small (1)"], ["/kept/clip", "clip (1)"]]
    gone = templates_page(TemplatesView(model="gone"), TEMPLATES)
    assert gone["rows"] == [] and ["gone", "gone (0)"] in gone["filters"][1]["options"]
    assert templates_page(TemplatesView(), TEMPLATES)["selection"] is None


ENTRIES = (
    ImportEntry(index=0, name="fresh", outcome="new"),
    ImportEntry(index=1, name="same", outcome="identical"),
    ImportEntry(index=2, name="other", outcome="conflicting", differs=("description", "config.target_l0")),
    ImportEntry(index=3, name="third", outcome="conflicting"),
    ImportEntry(index=4, name="", outcome="invalid", reason="name is empty; give it 1 to 255 characters."),
)


def test_what_nobody_decided_on_is_skipped_and_the_button_says_how_many_are_written() -> None:
    shown = template_import.preview(ENTRIES, {2: "rename"})
    assert shown["summary"] == "5 templates: 1 new, 1 identical, 2 conflicting, 1 invalid."
    assert [entry["choice"] for entry in shown["entries"]] == ["", "", "rename", "skip", ""]
    assert shown["entries"][2]["note"] == "A template of this name is different: Description, Target L0."
    assert shown["entries"][4]["name"] == "Entry 5" and "name is empty" in shown["entries"][4]["note"]
    assert (shown["writes"], shown["confirm"]) == (2, "Import 2 templates")
    assert template_import.choices_of(ENTRIES, {2: "rename"}) == {"2": "rename", "3": "skip", "4": "skip"}
    assert template_import.preview(ENTRIES[1:2], {})["confirm"] == "Nothing to import"
    said = template_import.outcome("a.json", Imported(created=("x", "y"), overwritten=(), skipped=1))
    assert said == "From a.json: 2 templates created, 1 template skipped."


def test_a_file_without_templates_is_told_in_a_sentence() -> None:
    assert template_import.read_document("a.json", '{"format": 1}') == ({"format": 1}, "")
    for content in ("", "{", "[" * 100_000, "[1]", "\ud800"):
        document, problem = template_import.read_document("a.json", content)
        assert document == {} and problem.startswith("a.json "), content[:5]
        assert problem.endswith(".")


def version(number: int, type: str, *changed: str, at: int = 0, restored: int | None = None, **config: int):
    return TemplateVersion(
        version=number, timestamp=(at or number) * 1_000_000, actor="user:ann", type=type,
        name="N" if number > 2 else "O", config=msgspec.structs.replace(TOPK, **config),
        changed=changed, restored=restored,
    )  # fmt: skip


def test_a_history_tells_what_one_person_did_at_a_moment_and_what_can_be_brought_back() -> None:
    events = [
        version(1, "TemplateSaved"),
        version(2, "TemplateEdited", "config.k", "config.seed", k=16, seed=4),
        version(3, "TemplateRenamed", "name", at=3, k=16, seed=4),
        version(4, "TemplateFavourited", "favourite", at=3, k=16, seed=4),
        version(5, "TemplateRestored", at=5, k=16, seed=4, restored=1),
        version(6, "TemplateEdited", "config.k", "config.seed", at=5),
        version(7, "TemplateDeleted", "deleted"),
        version(8, "TemplateRestored", "deleted"),
    ]
    shown = history_view(events[::-1], now=68.0)
    assert [(one["version"], one["what"]) for one in shown] == [
        (8, "Brought back"),
        (7, "Deleted"),
        (6, "Version 1 restored; k 16 → 12; Seed 4 → 0"),
        (4, "Renamed from O; favourite mark changed"),
        (2, "k 12 → 16; Seed 0 → 4"),
        (1, "Created"),
    ]
    assert shown[0] | {"what": ""} == {
        "version": 8, "what": "", "who": "ann", "when": "1 min ago", "time": 8_000_000, "current": True,
        "restorable": False,
    }  # fmt: skip
    assert [one["restorable"] for one in shown] == [False, False, False, True, True, True]
    assert history_view([], now=0) == []
