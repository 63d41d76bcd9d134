"""Templates over HTTP: saved, changed by one at a time, deleted and brought back, taken out and taken in."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from server_harness import Client

CONFIG = {"model": "tiny", "datasets": ["words"], "k": 8}


async def save(client: Client, name: str, **config: Any) -> str:
    answer = await client.http.post("/api/v1/templates", json={"name": name, "config": config or CONFIG})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def patch(client: Client, template: str, expected: int, **changes: Any) -> httpx.Response:
    return await client.http.patch(f"/api/v1/templates/{template}", json={"expected_version": expected, **changes})


async def post(client: Client, path: str, **body: Any) -> httpx.Response:
    return await client.http.post(f"/api/v1/{path}", json=body)


def errors(answer: httpx.Response, status: int = 422) -> dict[str, str]:
    """The problem's errors by field."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {one["field"]: one["message"] for one in answer.json().get("errors", ())}


async def names(client: Client, **query: Any) -> list[str]:
    return [row["name"] for row in (await client.get("templates", **query))["data"]]


async def test_a_saved_template_is_there_at_once_with_every_field(client: Client) -> None:
    answer = await post(client, "templates", name="  wide\t", description="about it", config={"l1_alpha": 1, "k": 3})
    assert answer.status_code == 201
    row = await client.get(f"templates/{answer.json()['id']}")
    assert row["position"] == answer.json()["position"]
    assert (row["name"], row["description"], row["version"]) == ("wide", "about it", 1)
    assert (row["config"]["l1_alpha"], row["config"]["k"], row["config"]["model"]) == (1.0, 3, "")
    assert (row["favourite"], row["deleted"]) == (False, False)
    assert row["actor"] == row["updated_by"] and row["actor"].startswith("user:")
    assert row["created_at"] == row["updated_at"] > 0
    listed = await client.get("templates")
    assert listed["data"] == [row]
    assert listed["position"] >= row["position"]


async def test_a_template_may_be_what_a_start_would_refuse_but_not_of_a_wrong_type(client: Client) -> None:
    await save(client, "both", k=5, top_k_sparsity=2.0, architecture_type="gated", training_layers=[900])
    answer = await post(
        client,
        "templates",
        name="",
        config={"k": "many", "learning_rate": 7, "lerning_rate": 1e-3, "latent_dim": 2**70},
    )
    found = errors(answer)
    assert list(found) == ["name", "config.k", "config.learning_rate", "config.lerning_rate", "config.latent_dim"]
    assert found["config.lerning_rate"].endswith("did you mean learning_rate?")
    assert errors(await post(client, "templates", name=5, config={})).keys() == {"name"}
    assert errors(await post(client, "templates", config={})).keys() == {"name"}
    assert await names(client) == ["both"]


async def test_a_name_is_one_to_255_characters_and_nobody_elses(client: Client) -> None:
    template = await save(client, "x" * 255)
    for name in ("", " \n ", "x" * 256, "x" * 255, f"  {'x' * 255} "):
        assert list(errors(await post(client, "templates", name=name, config={}))) == ["name"], name
    other = await save(client, "other")
    assert "taken" in errors(await patch(client, other, 1, name="x" * 255))["name"]
    assert (await patch(client, template, 1, name=f" {'x' * 255}")).json()["version"] == 1
    strange = "<img src=x onerror=alert(1)> \u202emirrored \U0001f9e0\x00"
    row = await client.get(f"templates/{await save(client, strange)}")
    assert row["name"] == strange
    # Of many who want a name at once, one gets it; with their connections open already, they do come at once.
    await asyncio.gather(*(client.get("templates") for _ in range(8)))
    answers = await asyncio.gather(*(post(client, "templates", name="wanted", config={}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [422] * 7


async def test_a_change_is_one_event_for_each_thing_that_changes(client: Client) -> None:
    template = await save(client, "first")
    same = await patch(client, template, 1, name="first", description="", config=CONFIG, favourite=False)
    assert (same.status_code, same.json()["version"]) == (200, 1)
    answer = await patch(client, template, 1, name="second", description="new", favourite=True)
    assert (answer.json()["name"], answer.json()["version"], answer.json()["config"]["k"]) == ("second", 4, 8)
    answer = await patch(client, template, 4, config={"k": 9})
    assert (answer.json()["config"]["k"], answer.json()["config"]["model"]) == (9, "")
    assert answer.json()["description"] == "new"
    events = await client.get("events", stream=f"template-{template}")
    assert [event["type"] for event in events["data"]] == [
        "TemplateSaved", "TemplateRenamed", "TemplateEdited", "TemplateFavourited", "TemplateEdited",
    ]  # fmt: skip
    assert list(errors(await patch(client, template, 5, name=" ", config={"k": 0}))) == ["name", "config.k"]


async def test_a_change_of_what_somebody_else_has_changed_is_refused(client: Client) -> None:
    template = await save(client, "mine")
    await patch(client, template, 1, description="theirs")
    answer = await patch(client, template, 1, description="mine")
    errors(answer, 409)
    actor = (await client.get(f"templates/{template}"))["updated_by"]
    assert answer.json()["detail"] == (
        f"mine is at version 2 now, changed last by {actor}; this change expected version 1."
    )
    assert (await client.get(f"templates/{template}"))["description"] == "theirs"
    answers = await asyncio.gather(*(patch(client, template, 2, description=f"{n}") for n in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 4


async def test_a_deleted_template_is_in_no_list_and_comes_back_unless_its_name_is_taken(client: Client) -> None:
    template = await save(client, "gone")
    deleted = await client.http.delete(f"/api/v1/templates/{template}")
    assert deleted.status_code == 200
    assert await names(client) == []
    row = await client.get(f"templates/{template}")
    assert (row["deleted"], row["position"]) == (True, deleted.json()["position"])
    for answer in (
        await client.http.delete(f"/api/v1/templates/{template}"),
        await patch(client, template, 2, name="x"),
        await client.http.post(f"/api/v1/templates/{template}/duplicate"),
    ):
        errors(answer, 409)
        assert answer.json()["detail"].startswith("gone was deleted by user:")
    other = await save(client, "gone")
    assert list(errors(await post(client, f"templates/{template}/restore"))) == ["name"]
    await client.http.delete(f"/api/v1/templates/{other}")
    answer = await post(client, f"templates/{template}/restore")
    assert (answer.status_code, answer.json()["deleted"], answer.json()["version"]) == (200, False, 3)
    assert (await post(client, f"templates/{template}/restore")).json()["version"] == 3
    assert await names(client) == ["gone"]
    for path in ("templates/nothing", f"templates/{'0' * 14}", f"templates/{'0' * 14}/history"):
        errors(await client.http.get(f"/api/v1/{path}"), 404)


async def test_history_tells_who_changed_what_and_every_version_comes_back(client: Client) -> None:
    template = await save(client, "one")
    await patch(client, template, 1, name="two", config={**CONFIG, "k": 9, "seed": 4}, favourite=True)
    await client.http.delete(f"/api/v1/templates/{template}")
    history = await client.get(f"templates/{template}/history")
    assert [(one["version"], one["type"], one["name"], one["changed"]) for one in history["data"]] == [
        (5, "TemplateDeleted", "two", ["deleted"]),
        (4, "TemplateFavourited", "two", ["favourite"]),
        (3, "TemplateEdited", "two", ["config.k", "config.seed"]),
        (2, "TemplateRenamed", "two", ["name"]),
        (1, "TemplateSaved", "one", []),
    ]
    assert all(one["actor"].startswith("user:") and one["timestamp"] > 0 for one in history["data"])
    assert [one["config"]["k"] for one in history["data"]] == [9, 9, 9, 8, 8]
    assert history["position"] == history["data"][0]["position"]
    answer = await post(client, f"templates/{template}/restore", version=1)
    row = answer.json()
    assert (row["name"], row["config"]["k"], row["deleted"], row["favourite"]) == ("one", 8, False, True)
    history = await client.get(f"templates/{template}/history")
    assert [(one["type"], one["restored"], one["changed"]) for one in history["data"][:3]] == [
        ("TemplateEdited", None, ["config.k", "config.seed"]),
        ("TemplateRenamed", None, ["name"]),
        ("TemplateRestored", 1, ["deleted"]),
    ]
    same = (await post(client, f"templates/{template}/restore", version=8)).json()
    assert same["version"] == row["version"] == 8
    assert list(errors(await post(client, f"templates/{template}/restore", version=99))) == ["version"]
    # What somebody has changed since the history was looked at is not overwritten.
    late = await post(client, f"templates/{template}/restore", version=4, expected_version=5)
    errors(late, 409)
    assert late.json()["detail"].startswith("one is at version 8 now, changed last by user:")
    assert (await client.get(f"templates/{template}"))["version"] == 8
    await save(client, "two")
    assert list(errors(await post(client, f"templates/{template}/restore", version=2))) == ["name"]


async def test_a_copy_has_a_name_of_its_own(client: Client) -> None:
    template = await save(client, "n" * 255)
    made = [await client.http.post(f"/api/v1/templates/{template}/duplicate") for _ in range(3)]
    assert [answer.status_code for answer in made] == [201] * 3
    found = [(await client.get(f"templates/{answer.json()['id']}"))["name"] for answer in made]
    assert [name.lstrip("n") for name in found] == [" (Copy)", " (Copy 2)", " (Copy 3)"]
    assert {len(name) for name in found} == {255}


async def test_templates_are_found_by_every_word_and_sorted(client: Client) -> None:
    a = await save(client, "apple", model="gpt2", architecture_type="jumprelu")
    await save(client, "Banana", model="gpt2")
    await save(client, "cherry")
    await patch(client, await save(client, "date"), 1, favourite=True)
    await patch(client, a, 1, description="changed last")
    assert await names(client) == ["date", "apple", "Banana", "cherry"]
    assert await names(client, sort="-name") == ["date", "cherry", "Banana", "apple"]
    assert await names(client, sort="created") == ["apple", "Banana", "cherry", "date"]
    assert (await names(client, sort="-updated"))[:2] == ["apple", "date"]
    assert await names(client, q="GPT2 jump") == ["apple"]
    assert await names(client, q="", sort="") == await names(client)
    assert list(errors(await client.http.get("/api/v1/templates?sort=size"), 400)) == ["sort"]


async def test_an_export_is_imported_elsewhere_as_it_was(client: Client) -> None:
    await patch(client, await save(client, "a", model="gpt2", l1_alpha=0.25), 1, favourite=True, description="of a")
    b = await save(client, "b")
    answer = await client.http.get("/api/v1/templates/export")
    assert "attachment" in answer.headers["content-disposition"]
    document = answer.json()
    assert (document["format"], document["version"]) == ("saestudio-templates", 1)
    assert [set(one) for one in document["templates"]] == [{"name", "description", "config", "favourite"}] * 2
    only = (await client.http.get("/api/v1/templates/export", params={"ids": b})).json()
    assert only["templates"] == document["templates"][1:]
    errors(await client.http.get("/api/v1/templates/export?ids=nothing"), 404)
    preview = (await post(client, "templates/import/preview", document=document)).json()["data"]
    assert [one["outcome"] for one in preview] == ["identical", "identical"]
    before = (await client.get("templates"))["data"]
    for row in before:
        await client.http.delete(f"/api/v1/templates/{row['id']}")
    imported = (await post(client, "templates/import", document=document)).json()
    assert (len(imported["created"]), imported["overwritten"], imported["skipped"]) == (2, [], 0)
    after = await client.get("templates")
    assert after["position"] >= imported["position"]
    kept = ("name", "description", "config", "favourite")
    assert [[row[field] for field in kept] for row in after["data"]] == [
        [row[field] for field in kept] for row in before
    ]


async def test_an_import_tells_what_it_would_do_and_does_all_that_was_chosen_or_nothing(client: Client) -> None:
    same, other, third = await save(client, "same"), await save(client, "other"), await save(client, "third")
    entries: list[Any] = [
        {"name": "new", "config": {"k": 4}},
        {"name": "same", "config": CONFIG},
        {"name": "other", "config": {"k": 5}},
        {"name": "third", "config": {"k": 6}, "description": "theirs", "favourite": True},
        {"name": "bad", "config": {"k": "many", "kk": 1}},
        {"name": "new", "config": {}},
        "nothing",
        {"name": "other (2)", "config": {}},
    ]
    document = {"format": "saestudio-templates", "version": 1, "templates": entries}
    preview = (await post(client, "templates/import/preview", document=document)).json()["data"]
    outcomes = ["new", "identical", "conflicting", "conflicting", "invalid", "invalid", "invalid", "new"]
    assert [one["outcome"] for one in preview] == outcomes
    assert [one["index"] for one in preview] == list(range(8))
    assert [one.get("template_id") for one in preview[:4]] == [None, same, other, third]
    lost = ["config.model", "config.datasets", "config.k"]
    assert [one.get("differs") for one in preview[:4]] == [None, None, lost, ["description", *lost]]
    assert "k must be" in preview[4]["reason"] and "kk is not" in preview[4]["reason"]
    assert preview[5]["reason"] == "name 'new' is that of entry 0 too."
    assert "object" in preview[6]["reason"]

    head = client.server.studio.store.head
    choices = {"2": "rename", "4": "skip", "5": "skip", "9": "skip"}
    answer = await post(client, "templates/import", document=document, choices=choices)
    assert list(errors(answer)) == ["choices.9", "choices.3", "choices.6"]
    assert errors(await post(client, "templates/import", document=document, choices={"2": "keep"})).keys() == {
        "choices"
    }
    assert client.server.studio.store.head == head

    choices = {"2": "rename", "3": "overwrite", "4": "skip", "5": "skip", "6": "skip"}
    # What somebody changed after it was looked at is not overwritten.
    versions = {str(one["index"]): one["version"] for one in preview if "version" in one}
    assert versions == {"2": 1, "3": 1}
    late = await post(client, "templates/import", document=document, choices=choices, versions={**versions, "3": 4})
    assert errors(late) == {"choices.3": "The template 'third' is at version 1 now, not 4: look at it again."}
    assert client.server.studio.store.head == head
    taken = await post(client, "templates/import", document=document, choices=choices, versions=versions)
    imported = taken.json()
    assert (len(imported["created"]), imported["overwritten"], imported["skipped"]) == (3, [third], 4)
    assert client.server.studio.store.head == head + 4 == imported["position"]
    assert await names(client) == ["new", "other", "other (2)", "other (3)", "same", "third"]
    row = await client.get(f"templates/{third}")
    assert (row["config"]["k"], row["description"], row["version"], row["favourite"]) == (6, "theirs", 2, False)
    again = (await post(client, "templates/import", document={**document, "templates": entries[:2]})).json()
    assert (again["created"], again["overwritten"], again["skipped"]) == ([], [], 2)


async def test_what_is_no_document_of_templates_is_refused_in_words(client: Client) -> None:
    good = {"format": "saestudio-templates", "version": 1, "templates": []}
    for field, value in (
        ("format", "other"),
        ("format", None),
        ("version", 2),
        ("version", True),
        ("templates", {}),
        ("templates", [{}] * 2_001),
    ):
        answer = await post(client, "templates/import/preview", document={**good, field: value})
        assert list(errors(answer)) == [f"document.{field}"], (field, value)


async def test_a_suggestion_reads_what_it_can_and_finds_a_free_name(client: Client) -> None:
    config = {"model": "openai-community/gpt2", "datasets": ["a/words"], "k": 50, "latent_dim": 2048, "target_l0": 0.5}
    first = (await post(client, "templates/suggestion", config=config)).json()
    assert first["name"] == "gpt2_words_TopK"
    assert first["description"] == "Latent: 2048 | Batch: 4096 | Steps: 50k | L0: 0.5 | TopK: 2.4%"
    await save(client, first["name"])
    odd = {**config, "seed": {"a": 1}, "hook_types": 5, "learning_rate": "fast", "unheard": [None], "dtype": None}
    second = (await post(client, "templates/suggestion", config=odd)).json()
    assert second == {"name": "gpt2_words_TopK (2)", "description": first["description"]}
    ill = {"model": ["m"], "datasets": "words", "training_layers": [True, "x"], "architecture_type": 7, "k": True}
    assert (await post(client, "templates/suggestion", config=ill)).json() == {
        "name": "Model_Dataset_TopK", "description": "Batch: 4096 | Steps: 50k",
    }  # fmt: skip
    assert errors(await post(client, "templates/suggestion", config=[])).keys() == {"config"}
