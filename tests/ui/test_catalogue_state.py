"""The catalogue page: what is said of an entry, what uses it, and what a registration asks for."""

from __future__ import annotations

from events.catalog import DatasetRegistered, ModelRegistered
from ui.answers import CatalogueUse, Use
from ui.state.catalogue import catalogue_view, cleaned, removed, wanted_of

TINY = ModelRegistered(
    model_id="tiny", source="owner/tiny", revision="0123456789abcdef", title="Tiny", family="gpt2", hidden_dim=64,
    layers=4, hooks=("resid_post", "mlp_in"), context_size=1024, vocab_size=4096, parameters=120_000,
)  # fmt: skip
WORDS = DatasetRegistered(
    dataset_id="/data/words", source="/data/words", format="jsonl", pattern="**/*.jsonl", documents=12_000,
    size=3_400_000, text_column="text",
)  # fmt: skip


def test_an_entry_tells_what_it_is_and_leads_to_what_uses_it() -> None:
    uses = CatalogueUse(
        models={
            "tiny": Use(
                registered_at=60_000_000,
                registered_by="user:ann",
                trainings={"tiny": 2, "owner/tiny": 1},
                templates={"tiny": 1},
            )
        },
        datasets={},
    )
    shown = catalogue_view([TINY], [WORDS], uses, now=120.0)
    (tiny,), (words,) = shown["models"], shown["datasets"]
    assert tiny == {
        "id": "tiny",
        "title": "Tiny",
        "tag": "gpt2",
        "facts": "4 layers of width 64 · reads 1,024 tokens · vocabulary of 4,096 · 120 k weights"
        " · hooks resid_post, mlp_in",
        "source": "owner/tiny",
        "revision": "revision 0123456789ab",
        "registered": "Registered 1 min ago by ann",
        "uses": [
            {"label": "1 training by its source", "href": "?where=model%3Downer%2Ftiny"},
            {"label": "2 trainings", "href": "?where=model%3Dtiny"},
            {"label": "1 template", "href": "?page=templates&model=tiny"},
        ],
        "removable": False,
        "use": "?page=new&model=tiny",
    }
    assert words["facts"] == "JSON lines · 12,000 documents · 3.4 MB · text in the column text"
    assert (words["source"], words["registered"], words["uses"]) == ("", "", [])


def test_what_registered_an_entry_can_be_asked_for_once_more() -> None:
    assert wanted_of(TINY) == {
        "source": "owner/tiny", "model_id": "tiny", "title": "Tiny", "revision": "0123456789abcdef",
    }  # fmt: skip
    assert wanted_of(WORDS)["pattern"] == "**/*.jsonl"
    assert cleaned("model", {"source": "  a/b ", "title": " ", "split": "x"}) == {"source": "a/b"}


def test_what_is_removed_says_who_calls_it_by_its_name() -> None:
    assert removed(TINY, Use(trainings={"owner/tiny": 3})) == "tiny was removed."
    assert removed(WORDS, Use(trainings={"/data/words": 3})) == "/data/words was removed."
    assert removed(TINY, Use(templates={"tiny": 1})) == (
        "tiny was removed. 1 template calls it by that name: what has been started goes on, a new start needs it"
        " registered again."
    )
    assert "2 trainings and 1 template call it" in removed(TINY, Use(trainings={"tiny": 2}, templates={"tiny": 1}))
