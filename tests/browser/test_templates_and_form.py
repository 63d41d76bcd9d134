"""Templates and the new-training form in a real browser, before the real server and its trainer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Held, Server, Tab, wait_until
from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from stored_folders import make_folder

pytestmark = pytest.mark.browser

TabAt = Callable[..., Tab]

TOPK: dict[str, Any] = {
    "model": "demo",
    "datasets": ["stdlib"],
    "architecture_type": "topk",
    "training_layers": [1, 2],
    "hook_types": ["resid_post"],
    "latent_dim": 512,
    "k": 12,
    "total_steps": 321,
    "batch_size": 256,
    "learning_rate": 0.002,
    "warmup_steps": 7,
    "seed": 5,
}
JUMPRELU: dict[str, Any] = {
    "model": "demo",
    "datasets": ["stdlib"],
    "architecture_type": "jumprelu",
    "training_layers": [2],
    "hidden_dim": 128,
    "latent_dim": 1024,
    "learning_rate": 0.00027,
    "batch_size": 4096,
    "total_steps": 50_000,
    "l1_alpha": 0.0001,
    "target_l0": 0.05,
    "sparsity_coeff": 0.0006,
    "initial_threshold": 0.02,
    "bandwidth": 0.1,
}


def saved(server: Server, name: str, config: dict[str, Any], description: str = "") -> str:
    """A template of the server's; its id."""
    return server.ask("templates", {"name": name, "description": description, "config": config})["id"]


def templates(server: Server) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in server.ask("templates")["data"]}


def form_at(tab_at: TabAt, server: Server, query: str = "?page=new", **options: Any) -> Tab:
    tab = tab_at(server.url + query, **options)
    expect(selection(tab.page)).to_be_visible(timeout=30_000)
    return tab


def selection(page: Page) -> Locator:
    return page.get_by_label("Load template")


def selected(page: Page) -> str:
    return selection(page).evaluate("box => box.selectedOptions[0].textContent")


def choose(page: Page, name: str) -> None:
    selection(page).select_option(label=name)
    wait_until(lambda: selected(page) == name, f"{name} to be loaded")


def hint(page: Page) -> Locator:
    return page.locator(".hint")


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True)


def pressed(page: Page, name: str) -> Locator:
    return page.locator(f"[data-field={name}] .toggle[aria-pressed=true]")


def row_of(page: Page, name: str) -> Locator:
    """A template's row on the templates page."""
    return page.get_by_role("listitem").filter(has=page.get_by_role("link", name=name, exact=True))


def choose_more(row: Locator, action: str) -> None:
    """Open a row's menu and choose from it."""
    more = row.get_by_role("button", name="More for")
    chosen = row.locator(".menu").get_by_text(action, exact=True)

    def taken() -> bool:
        # A menu is closed where the page scrolls or its row moves, which is then opened again.
        if not chosen.is_visible():
            more.click()
        try:
            chosen.click(timeout=5_000)
        except PlaywrightTimeout:
            return False
        return True

    wait_until(taken, f"{action} to be chosen", 60)


def fits(page: Page) -> None:
    """Wait until nothing is wider than the page."""
    wait_until(
        lambda: page.locator(".main-content").evaluate("page => page.scrollWidth <= page.clientWidth"),
        "a page that is no wider than its window",
    )


def started(page: Page, name: str) -> str:
    """The id of the training that was started, whose page is there."""
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page).to_have_url(re.compile(r"[?]training=\w+$"))
    return page.url.rpartition("training=")[2]


def fill(page: Page, label: str, value: str) -> None:
    field(page, label).fill(value)
    field(page, label).press("Tab")


def ready(page: Page) -> None:
    expect(page.get_by_text("Ready to start.")).to_be_visible(timeout=30_000)


def test_a_loaded_template_fills_every_field_and_its_name_stays(server: Server, tab_at: TabAt) -> None:
    saved(server, "stays", TOPK)
    saved(server, "another", {**TOPK, "k": 9, "architecture_type": "topk"})
    page = form_at(tab_at, server).page
    lead = f"Select a template… ({len(templates(server))} available)"
    wait_until(lambda: selected(page) == lead, "all templates to be offered")
    choose(page, "stays")
    expect(hint(page)).to_have_text("Loaded: stays")
    expect(field(page, "Model")).to_have_value("demo")
    expect(field(page, "k")).to_have_value("12")
    expect(field(page, "Total steps")).to_have_value("321")
    expect(field(page, "Learning rate")).to_have_value("0.002")
    expect(pressed(page, "training_layers")).to_have_text(["1", "2"])
    expect(pressed(page, "hook_types")).to_have_text(["resid_post"])
    page.get_by_role("button", name="Show advanced fields").click()
    expect(field(page, "Warmup steps")).to_have_value("7")
    expect(field(page, "Seed")).to_have_value("5")

    fill(page, "k", "20")
    expect(hint(page)).to_have_text("Loaded: stays · 1 field changed")
    fill(page, "Seed", "6")
    expect(hint(page)).to_have_text("Loaded: stays · 2 fields changed")
    expect(hint(page)).to_have_attribute("title", "k, Seed")
    wait_until(lambda: selected(page) == "stays", "the name to stay")
    page.get_by_role("button", name="Revert").click()
    expect(hint(page)).to_have_text("Loaded: stays")
    expect(field(page, "k")).to_have_value("12")

    choose(page, "another")
    expect(hint(page)).to_have_text("Loaded: another")
    expect(field(page, "k")).to_have_value("9")
    page.get_by_role("button", name="Clear the template selection").click()
    wait_until(lambda: selected(page).startswith("Select a template"), "the empty selection")
    expect(hint(page)).to_have_text("")
    expect(field(page, "k")).to_have_value("9")


def test_the_selection_lets_go_of_a_template_that_does_not_fit_and_says_why(server: Server, tab_at: TabAt) -> None:
    saved(server, "for demo", TOPK)
    page = form_at(tab_at, server).page
    choose(page, "for demo")
    fill(page, "k", "20")
    fill(page, "Model", "/nowhere/model")
    expect(hint(page)).to_have_text("for demo no longer applies: it is for demo")
    wait_until(lambda: selected(page).startswith("Select a template"), "the empty selection")
    expect(field(page, "k")).to_have_value("20")
    # There is no such folder: the server says so at its field, and nothing is lost.
    expect(page.locator("#field-model-problem")).not_to_be_empty(timeout=60_000)
    choose(page, "for demo")
    page.get_by_role("button", name="Remove stdlib").click()
    expect(hint(page)).to_have_text("Loaded: for demo · 1 field changed")
    field(page, "Datasets").fill("other/text")
    field(page, "Datasets").press("Enter")
    expect(hint(page)).to_have_text("for demo no longer applies: it is for stdlib")


def test_the_selection_and_the_draft_survive_reload_and_back(server: Server, tab_at: TabAt) -> None:
    saved(server, "kept", TOPK)
    page = form_at(tab_at, server).page
    choose(page, "kept")
    fill(page, "k", "21")
    fill(page, "Name of the training", "my run")
    expect(hint(page)).to_have_text("Loaded: kept · 1 field changed")
    # The server writes the draft, and the browser keeps it.
    page.wait_for_function("sessionStorage.getItem('saestudio:draft')?.includes('my run')")
    page.reload()
    expect(hint(page)).to_have_text("Loaded: kept · 1 field changed", timeout=30_000)
    wait_until(lambda: selected(page) == "kept", "the selection")
    expect(field(page, "k")).to_have_value("21")
    expect(field(page, "Name of the training")).to_have_value("my run")
    page.get_by_role("link", name="Trainings", exact=True).click()
    expect(page.get_by_role("heading", level=1, name="Trainings")).to_be_visible()
    page.go_back()
    expect(hint(page)).to_have_text("Loaded: kept · 1 field changed")
    expect(field(page, "k")).to_have_value("21")


def test_saving_suggests_name_and_description_and_keeps_what_is_typed_when_it_fails(
    server: Server, tab_at: TabAt
) -> None:
    page = form_at(tab_at, server).page
    saved(server, "taken", {})
    saved(server, "source", {**TOPK, "training_layers": [0, 1, 3]})
    choose(page, "source")
    ready(page)
    page.get_by_role("button", name="Save as template").click()
    dialog = page.get_by_role("dialog", name="Save as template")
    name, description = dialog.get_by_label("Name"), dialog.get_by_label("Description")
    expect(name).to_have_value("demo_stdlib_TopK_L0-3")
    expect(description).to_have_value(
        "Hidden: 128 → Latent: 512 (4x) | LR: 0.002 | Batch: 256 | Steps: 321 | Layers: 0, 1, 3 | TopK: 2.3%"
        " | Warmup: 7 | Seed: 5"
    )
    name.fill("taken")
    description.fill("my own words")
    dialog.get_by_role("button", name="Save template").click()
    expect(dialog.locator("#template-name-problem")).to_contain_text("taken")
    expect(description).to_have_value("my own words")
    name.fill("mine")
    dialog.get_by_role("button", name="Save template").click()
    expect(dialog).to_be_hidden()
    expect(hint(page)).to_have_text("Loaded: mine")
    wait_until(lambda: selected(page) == "mine", "the saved one to be selected")
    assert templates(server)["mine"]["description"] == "my own words"
    page.get_by_role("button", name="Save as template").click()
    expect(name).to_have_value("demo_stdlib_TopK_L0-3")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_a_jumprelu_template_tells_its_own_parameters(server: Server, tab_at: TabAt) -> None:
    saved(server, "jump", JUMPRELU)
    page = form_at(tab_at, server).page
    choose(page, "jump")
    expect(field(page, "Bandwidth")).to_have_value("0.1")
    expect(field(page, "Initial threshold")).to_have_value("0.02")
    expect(field(page, "k")).to_have_count(0)
    # The description knows the defaults when they have been asked for.
    ready(page)
    page.get_by_role("button", name="Save as template").click()
    dialog = page.get_by_role("dialog", name="Save as template")
    expect(dialog.get_by_label("Name")).to_have_value("demo_stdlib_JumpReLU_L2")
    expect(dialog.get_by_label("Description")).to_have_value(
        "Hidden: 128 → Latent: 1024 (8x) | L1: 0.0001 | LR: 0.00027 | Batch: 4096 | Steps: 50k | Layers: 2 | L0: 0.05"
        " | SparsityCoeff: 0.0006 | Thresh: 0.02 | BW: 0.1"
    )


def test_two_browsers_see_each_others_changes_of_templates(server: Server, tab_at: TabAt) -> None:
    shared = saved(server, "shared", TOPK)
    one, two = form_at(tab_at, server).page, tab_at(f"{server.url}?page=templates").page
    choose(one, "shared")
    row_of(two, "shared").get_by_role("button", name="Edit").click()
    dialog = two.get_by_role("dialog", name="Edit template")
    dialog.get_by_label("Name").fill("shared by two")
    # Somebody else is faster: what was typed stays, and is taken when it is meant all the same.
    mark = httpx.patch(
        f"{server.url}api/v1/templates/{shared}", json={"expected_version": 1, "favourite": True}, timeout=30
    )
    assert mark.is_success, mark.text
    expect(two.get_by_label("Favourite shared", exact=True)).to_have_attribute("aria-pressed", "true")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Save again to put this in its place.")
    expect(dialog.get_by_label("Name")).to_have_value("shared by two")
    dialog.get_by_role("button", name="Save").click()
    expect(hint(one)).to_have_text("Loaded: shared by two")
    wait_until(lambda: selected(one) == "shared by two", "the new name to be selected")
    choose_more(row_of(two, "shared by two"), "Delete")
    expect(hint(one)).to_have_text("shared by two was deleted")
    wait_until(lambda: selected(one).startswith("Select a template"), "the empty selection")
    expect(field(one, "k")).to_have_value("12")
    two.get_by_role("button", name="Undo").click()
    expect(two.get_by_role("link", name="shared by two", exact=True)).to_be_visible()
    wait_until(
        lambda: "shared by two" in selection(one).locator("option").all_text_contents(), "the template to be back"
    )


def test_the_templates_page_finds_marks_copies_and_uses(server: Server, tab_at: TabAt) -> None:
    saved(server, "zebra", {**TOPK, "k": 33}, "striped")
    page = tab_at(f"{server.url}?page=templates").page
    page.get_by_label("Search templates").fill("striped")
    rows = page.get_by_role("listitem")
    expect(rows).to_have_count(1)
    expect(page).to_have_url(re.compile("q=striped"))
    rows.get_by_role("button", name="Favourite zebra").click()
    expect(rows.get_by_role("button", name="Favourite zebra")).to_have_attribute("aria-pressed", "true")
    choose_more(rows, "Duplicate")
    expect(page.get_by_role("link", name="zebra (Copy)", exact=True)).to_be_visible()
    page.get_by_label("Search templates").fill("")
    expect(rows.first.get_by_role("link").first).to_have_text("zebra")
    page.get_by_label("Sort by").select_option(label="Name, from Z to A")
    expect(rows.first.get_by_role("link").first).to_have_text("zebra (Copy)")
    expect(page).to_have_url(re.compile("sort=-name"))
    saved(server, "heron", {**JUMPRELU, "model": "owner/heron"})
    page.get_by_label("Architecture").select_option("jumprelu")
    page.get_by_label("Model").select_option("owner/heron")
    expect(rows).to_have_count(1)
    page.reload()
    expect(rows.get_by_role("link").first).to_have_text("heron")
    page.get_by_label("Architecture").select_option("")
    page.get_by_label("Model").select_option("")
    page.get_by_role("link", name="Use zebra", exact=True).click()
    expect(hint(page)).to_have_text("Loaded: zebra")
    expect(field(page, "k")).to_have_value("33")
    assert templates(server)["zebra"]["updated_by"].startswith("user:")


def test_templates_are_exported_imported_after_a_look_and_made_what_they_were(
    server: Server, tab_at: TabAt, tmp_path: Path
) -> None:
    lynx = saved(server, "lynx", TOPK)
    saved(server, "otter", TOPK)
    page = tab_at(f"{server.url}?page=templates&q=lynx").page
    expect(row_of(page, "lynx")).to_be_visible(timeout=30_000)
    page.get_by_label("Search templates").fill("")
    for name in ("lynx", "otter"):
        page.get_by_label(f"Select {name}", exact=True).click()
        expect(page.get_by_label(f"Select {name}", exact=True)).to_be_checked()
    expect(page.get_by_text("2 selected")).to_be_visible()
    with page.expect_download() as download:
        page.locator(".selection").get_by_text("Export", exact=True).click()
    document = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert sorted(one["name"] for one in document["templates"]) == ["lynx", "otter"]

    changed, same = ({**one} for one in sorted(document["templates"], key=lambda one: one["name"]))
    changed["config"] = {**changed["config"], "k": 4}
    entries = [changed, same, {"name": "badger", "config": {"k": 3}}, {"name": "broken", "config": {"k": "many"}}]
    (tmp_path / "kept.json").write_text(json.dumps({**document, "templates": entries}))
    (tmp_path / "notes.json").write_text("not json")
    picker = page.get_by_label("File of templates")
    picker.set_input_files(tmp_path / "notes.json")
    dialog = page.get_by_role("dialog", name="Import templates")
    expect(dialog.get_by_role("alert")).to_contain_text("notes.json is not JSON")
    picker.set_input_files(tmp_path / "kept.json")
    expect(dialog.get_by_text("4 templates: 1 new, 1 identical, 1 conflicting, 1 invalid.")).to_be_visible()
    expect(dialog.get_by_text("A template of this name is different: k.")).to_be_visible()
    expect(dialog.get_by_text("Cannot be taken in: k must be")).to_be_visible()
    choice = dialog.get_by_label("What becomes of lynx")
    expect(choice).to_have_value("skip")
    choice.select_option("overwrite")
    expect(dialog.get_by_role("button", name="Import 2 templates")).to_be_enabled()
    assert "badger" not in templates(server)
    # Somebody else saves what was new; the open dialog says so, and keeps what was chosen.
    saved(server, "badger", {"k": 3})
    expect(dialog.get_by_text("2 identical")).to_be_visible()
    expect(choice).to_have_value("overwrite")
    dialog.get_by_role("button", name="Import 1 template").click()
    expect(page.get_by_text("From kept.json: 1 template overwritten, 3 templates skipped.")).to_be_visible()
    expect(dialog).to_be_hidden()
    assert templates(server)["lynx"]["config"]["k"] == 4

    choose_more(row_of(page, "lynx"), "History")
    past = page.get_by_role("dialog", name="History")
    expect(past.locator("li")).to_have_text([re.compile(r"2k 12 → 4\w+, "), re.compile(r"1Created\w+, ")])
    past.get_by_role("button", name="Restore version 1").click()
    expect(past.get_by_text("lynx is again what it was at version 1.")).to_be_visible()
    expect(past.locator("li").first).to_contain_text("Version 1 restored; k 4 → 12")
    assert templates(server)["lynx"]["config"]["k"] == 12
    assert server.ask(f"templates/{lynx}/history")["data"][1]["type"] == "TemplateRestored"
    page.keyboard.press("Escape")
    expect(past).to_be_hidden()


@pytest.mark.timeout(300)
def test_what_loads_is_registered_after_a_check_and_leads_to_what_uses_it(
    server: Server, tab_at: TabAt, tmp_path: Path
) -> None:
    (tmp_path / "lines.jsonl").write_text('{"said": "a few words of text"}\n' * 40)
    page = tab_at(server.url).page
    page.get_by_role("link", name="Catalogue", exact=True).click()
    datasets = page.get_by_role("region", name="Data sets")
    expect(datasets.get_by_role("listitem").filter(has_text="stdlib")).to_be_visible(timeout=30_000)
    datasets.get_by_role("button", name="Register a data set…").click()
    dialog = page.get_by_role("dialog")
    source = dialog.get_by_label("Hub id or path")
    expect(source).to_be_focused()
    source.fill(str(tmp_path / "nowhere"))
    source.press("Enter")
    expect(dialog.locator("#register-source-problem")).to_contain_text("There is no file or folder")
    source.fill(str(tmp_path / "lines.jsonl"))
    expect(dialog.locator("#register-source-problem")).to_have_text("")
    dialog.get_by_label("Id", exact=True).fill("my lines")
    dialog.get_by_role("button", name="Check", exact=True).click()
    expect(dialog.get_by_text("It loads")).to_be_visible(timeout=90_000)
    expect(dialog.get_by_text("40 documents")).to_be_visible()
    assert "my lines" not in [one["dataset_id"] for one in server.ask("datasets")["data"]]
    dialog.get_by_role("button", name="Register", exact=True).click()
    expect(page.get_by_text("The data set my lines is registered.")).to_be_visible(timeout=60_000)
    row = datasets.get_by_role("listitem").filter(has_text="my lines")
    expect(row).to_contain_text("Not used yet")
    saved(server, "of my lines", {**TOPK, "datasets": ["my lines"]})
    row.get_by_role("link", name="1 template").click()
    expect(page.get_by_label("Data set", exact=True)).to_have_value("my lines")
    expect(page.get_by_role("listitem")).to_have_count(1)
    page.go_back()
    # What ships with the studio stays; anything else can be removed, and brought back.
    expect(row).to_be_visible()
    expect(datasets.get_by_role("button", name="Remove stdlib from the catalogue")).to_be_hidden()
    row.get_by_role("button", name="Remove my lines from the catalogue").click()
    expect(page.get_by_text("my lines was removed. 1 template calls it by that name")).to_be_visible()
    expect(row).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("my lines is back.")).to_be_visible()
    expect(row).to_contain_text("1 template")
    row.get_by_role("link", name="Use my lines in a new training").click()
    expect(page.get_by_role("button", name="Remove my lines")).to_be_visible()


@pytest.mark.timeout(400)
def test_start_asks_nothing_else_and_the_training_is_there_at_once(server: Server, tab_at: TabAt) -> None:
    template = saved(server, "to start", {**TOPK, "total_steps": 40, "training_layers": [1]})
    page = form_at(tab_at, server, f"?page=new&template={template}").page
    expect(hint(page)).to_have_text("Loaded: to start")
    fill(page, "k", "8")
    fill(page, "Name of the training", "started here")
    ready(page)
    page.get_by_role("button", name="Start training").click()
    training = started(page, "started here")
    row = server.ask(f"trainings/{training}")
    assert (row["template_id"], row["config"]["k"], row["config"]["warmup_steps"]) == (template, 8, 7)
    assert row["actor"].startswith("user:")
    wait_until(lambda: server.ask(f"trainings/{training}")["status"] == "completed", "its end", 300)
    page.go_back()
    expect(field(page, "k")).to_have_value("8")


def test_what_is_wrong_is_said_at_its_field_and_nothing_is_started(server: Server, tab_at: TabAt) -> None:
    before = len(server.ask("trainings")["data"])
    page = form_at(tab_at, server).page
    held = Held(page)
    page.reload()
    expect(page.get_by_text("Choose a model and a data set.")).to_be_visible(timeout=30_000)
    # The server has looked at it, and nobody is told yet what is wrong with a form that was not touched.
    expect(page.locator(".stand")).not_to_have_class(re.compile("spin"))
    expect(page.locator(".problem:visible")).to_have_count(0)
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#field-model-problem")).to_contain_text("model")
    fill(page, "Learning rate", "fast")
    expect(page.locator("#field-learning_rate-problem")).to_contain_text("not 'fast'")
    expect(field(page, "Learning rate")).to_have_value("fast")
    page.get_by_role("list", name="Problems").get_by_role("button", name="not 'fast'").click()
    expect(field(page, "Learning rate")).to_be_focused()
    fill(page, "Model", "demo")
    field(page, "Datasets").fill("stdlib")
    field(page, "Datasets").press("Enter")
    fill(page, "Learning rate", "")
    ready(page)
    # Whoever is faster than the page's answers is not set back by them.
    layers = page.locator("[data-field=training_layers]")
    held.hold()
    for layer in "01":
        layers.get_by_role("button", name=layer, exact=True).click()
    wait_until(
        lambda: page.evaluate("true") and any('"heard"' in str(one) for one in held.messages),
        "the answer to the first click",
    )
    while '"heard"' not in str(held.messages[0]):
        held.first()
    held.first()
    expect(page.get_by_text("Checking…")).to_be_visible()
    layers.get_by_role("button", name="3", exact=True).click()
    held.release()
    page.wait_for_function(
        """() => {
            const draft = sessionStorage.getItem("saestudio:draft")
            return JSON.parse(draft).inputs.training_layers.join() === "0,1,3"
        }"""
    )
    ready(page)
    expect(pressed(page, "training_layers")).to_have_text(["0", "1", "3"])
    fill(page, "Latent dim", "512")
    fill(page, "k", "300")
    expect(page.locator("#field-k-problem")).to_contain_text("at most a quarter")
    assert len(server.ask("trainings")["data"]) == before


@pytest.mark.timeout(400)
def test_a_folder_of_activations_is_chosen_in_place_of_a_model_and_trained_on(
    server: Server, tab_at: TabAt, tmp_path: Path
) -> None:
    make_folder(tmp_path / "kept", [700, 500])
    page = form_at(tab_at, server).page
    fill(page, "Model", "demo")
    field(page, "Train on").select_option(label="a folder of activations")
    expect(page.get_by_text("Choose a folder of activations.")).to_be_visible()
    expect(field(page, "Model")).to_have_count(0)
    fill(page, "Activations", str(tmp_path / "nowhere"))
    expect(page.locator("#field-activations-problem")).to_contain_text("There is no folder")
    fill(page, "Activations", str(tmp_path / "kept"))
    fill(page, "Batch size", "64")
    fill(page, "Total steps", "30")
    fill(page, "Latent dim", "96")
    fill(page, "k", "4")
    ready(page)
    field(page, "Train on").select_option(label="what a language model reads")
    expect(field(page, "Model")).to_have_value("demo")
    field(page, "Train on").select_option(label="a folder of activations")
    expect(field(page, "Activations")).to_have_value(str(tmp_path / "kept"))
    ready(page)
    page.get_by_role("button", name="Start training").click()
    training = started(page, "kept_TopK")
    wait_until(lambda: server.ask(f"trainings/{training}")["status"] == "completed", "its end", 200)
    expect(page.get_by_text(str(tmp_path / "kept"), exact=True)).to_be_visible()


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "🦀" * 255, "‮عربي ‏right to left", "a-very-long-name-" * 14]
)
def test_any_name_is_text_and_is_cut_well(server: Server, tab_at: TabAt, name: str) -> None:
    saved(server, name, TOPK, description=name)
    for width in (1440, 390):
        tab = form_at(tab_at, server, width=width, height=800)
        page = tab.page
        page.on("dialog", lambda dialog, tab=tab: tab.wrong.append("a script ran"))
        choose(page, name)
        expect(hint(page)).to_have_text(f"Loaded: {name}")
        fits(page)
        assert page.get_by_role("button", name="Toggle theme").evaluate(
            "button => button.getBoundingClientRect().right <= innerWidth"
        )
        page.get_by_role("link", name="Templates", exact=True).click()
        expect(page.get_by_role("link", name=name, exact=True)).to_have_text(name)
        fits(page)
    httpx.delete(f"{server.url}api/v1/templates/{templates(server)[name]['id']}").raise_for_status()
