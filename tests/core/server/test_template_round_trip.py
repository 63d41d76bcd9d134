"""Save → load → start keeps every field of a configuration."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import inspect
from server_harness import TINY, WORDS, Client, serving

from core.config_fields import ABOUT
from core.config_rules import check
from core.naming import template_description, template_name
from events import codec
from events.template import TemplateSaved
from events.training import Architecture, TrainingConfig

FIELDS = {field.name: inspect.type_info(field.type) for field in msgspec.structs.fields(TrainingConfig)}


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Everything that a field's type allows."""
    match kind:
        case inspect.Metadata(type=inner):
            return values(inner)
        case inspect.UnionType(types=types):
            return st.one_of(*map(values, types))
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=low, le=high):
            return st.integers(low or 0, 2**63 - 1 if high is None else high)
        case inspect.FloatType(ge=low, gt=above, le=high):
            return st.floats(low if above is None else above, high, exclude_min=above is not None, allow_infinity=False)
        case inspect.LiteralType(values=allowed):
            return st.sampled_from(allowed)
        case inspect.DictType():
            # What a variant may have otherwise, whatever its architecture.
            return st.fixed_dictionaries({}, optional={"seed": st.integers(0, 9), "learning_rate": st.just(1e-3)})
        case inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=4).map(tuple)
        case inspect.StrType(pattern=str() as pattern):
            return st.from_regex(pattern, fullmatch=True).map(str.strip)
        case inspect.StrType():
            return st.text(max_size=40)
        case _:
            raise AssertionError(f"{kind} has no values here.")


CONFIGS = st.builds(TrainingConfig, **{name: values(kind) for name, kind in FIELDS.items()})


@settings(max_examples=50)
@given(CONFIGS)
def test_a_saved_template_holds_every_field_as_it_was(config: TrainingConfig) -> None:
    saved = TemplateSaved(name="t", config=config)
    for format in ("json", "msgpack"):
        assert codec.decode(codec.encode(saved, format), format) == saved
    plain = msgspec.json.decode(msgspec.json.encode(config))
    assert set(plain) == set(FIELDS)
    assert msgspec.convert(plain, TrainingConfig) == config
    template_name(plain)
    template_description(plain)


def startable(draw: Any) -> dict[str, Any]:
    """A configuration that may be started on the model `tiny`, with as many fields set as that allows."""
    raw: dict[str, Any] = {
        "model": "tiny",
        "datasets": ["words"],
        "architecture_type": draw(st.sampled_from(get_args(Architecture))),
    }
    raw |= {"total_steps": draw(st.integers(1, 10**6)), "batch_size": draw(st.integers(8, 4_096))}
    for field, kind in FIELDS.items():
        only = (ABOUT[field].extra or {}).get("only")
        if field in raw or (only is not None and raw["architecture_type"] not in only) or draw(st.integers(0, 3)) == 0:
            continue
        value = msgspec.to_builtins(draw(values(kind)))
        # Fields are taken over one by one as long as the rules agree with the whole.
        tried = {**raw, field: list(value) if isinstance(value, tuple) else value}
        if not check(tried, [TINY], [WORDS], devices=("cpu",)).problems:
            raw = tried
    return raw


STARTABLE = st.composite(startable)()


async def keeps_every_field(client: Client, raw: dict[str, Any]) -> None:
    post = client.http.post
    saved = await post("/api/v1/templates", json={"name": str(client.server.studio.store.head), "config": raw})
    assert saved.status_code == 201, saved.text
    loaded = (await client.get(f"templates/{saved.json()['id']}"))["config"]
    assert {field: loaded[field] for field in raw} == raw
    checked = (await post("/api/v1/trainings/check", json={"config": loaded})).json()
    assert checked["problems"] == []
    created = await post("/api/v1/trainings", json={"config": loaded, "template_id": saved.json()["id"]})
    assert created.status_code == 201, created.text
    started = (await client.get(f"trainings/{created.json()['id']}"))["config"]
    assert started == checked["config"]
    # Only what was left to its default is filled in; k stands for the share that it was given as, and variants are told
    # as what differs.
    written_anew = ("top_k_sparsity", "variants")
    kept = {field: value for field, value in loaded.items() if value is not None and field not in written_anew}
    assert len(started["variants"] or ()) == len(loaded["variants"] or ())
    assert {field: started[field] for field in kept} == kept
    assert (await client.http.delete(f"/api/v1/templates/{saved.json()['id']}")).status_code == 200


class Never:
    """A launcher of nothing: what is created stays queued."""

    name = "local"

    def start(self, *_: Any, **__: Any) -> Any:
        raise OSError("Nothing is started here.")


@pytest.mark.slow
def test_a_loaded_template_is_started_with_every_field() -> None:
    @settings(max_examples=20, phases=[Phase.generate])
    @given(st.lists(STARTABLE, min_size=2, max_size=2))
    def keeps(configs: list[dict[str, Any]]) -> None:
        async def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                async with serving(Path(folder), Never()) as client:
                    for raw in configs:
                        await keeps_every_field(client, raw)

        asyncio.run(run())

    keeps()
