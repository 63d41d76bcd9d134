"""The models and data sets that ship with SAE Studio, how a reference to one is resolved, and inspection.

Imports no machine learning library: a model or data set that is not known yet is looked at by a child process.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any, get_args

import msgspec

from core.activations.sources import SourceError, StoredActivations, format_of, local_path
from events.catalog import DatasetRegistered, ModelRegistered
from events.training import HookType

DEMO_MODEL = Path(__file__).parent / "activations" / "demo"

# Tests, generated tables and what others installed are left out: they are not the library's own prose of code, and
# distributions of Python differ in them.
_STDLIB = (
    "**/*.py",
    "!site-packages/**/*",
    "!dist-packages/**/*",
    "!**/test/**/*",
    "!**/tests/**/*",
    "!**/idle_test/**/*",
    "!encodings/**/*",
    "!pydoc_data/**/*",
    "!_sysconfigdata*",
)


class InspectionFailed(Exception):
    """A model or data set that cannot be used; the message is one sentence for a person."""


def _demo_model() -> tuple[ModelRegistered, ...]:
    """The demo model as its own files describe it; nothing while `scripts/make_demo_model` has not made it."""
    try:
        config = json.loads((DEMO_MODEL / "config.json").read_text(encoding="utf-8"))
        with (DEMO_MODEL / "model.safetensors").open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    except FileNotFoundError:
        return ()
    return (
        ModelRegistered(
            model_id="demo",
            source=str(DEMO_MODEL),
            title="Demo model (Python source)",
            family=config["model_type"],
            hidden_dim=config["n_embd"],
            layers=config["n_layer"],
            hooks=get_args(HookType),
            context_size=config["n_positions"],
            vocab_size=config["vocab_size"],
            parameters=sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"),
        ),
    )


BUILTIN_MODELS: tuple[ModelRegistered, ...] = _demo_model()

BUILTIN_DATASETS: tuple[DatasetRegistered, ...] = (
    DatasetRegistered(
        dataset_id="stdlib",
        source=sysconfig.get_path("stdlib"),
        title="Python standard library (sources of the running interpreter)",
        format="text",
        pattern=",".join(_STDLIB),
    ),
)


def resolve_model(reference: str, registered: Iterable[ModelRegistered] = ()) -> ModelRegistered | None:
    """What is known of the model that `reference` names: a catalogue id, else the path or hub id of a known one.

    None means that it is not known yet: `inspect_model` finds out. Registered models come before built-in ones.
    """
    known = (*registered, *BUILTIN_MODELS)
    return next(
        (model for model in known if model.model_id == reference),
        next((model for model in known if _same_source(model.source, reference)), None),
    )


def resolve_dataset(reference: str, registered: Iterable[DatasetRegistered] = ()) -> DatasetRegistered:
    """The data set that `reference` names: a catalogue id, else a path, else a hub id.

    Raises InspectionFailed for what is none of them. Nothing is read but names of files.
    """
    known = (*registered, *BUILTIN_DATASETS)
    for dataset in known:
        if dataset.dataset_id == reference:
            return dataset
    for dataset in known:
        if _same_source(dataset.source, reference):
            return dataset
    try:
        kind, pattern = format_of(reference)
    except SourceError as error:
        raise InspectionFailed(str(error)) from error
    return DatasetRegistered(
        dataset_id=reference,
        source=absolute(reference),
        title=Path(reference).name if kind != "hub" else reference,
        format=kind,
        pattern=pattern,
    )


def absolute(source: str) -> str:
    """A source that means the same in another working directory."""
    path = local_path(source)
    return source if path is None else str(path)


def inspect_model(
    source: str,
    *,
    revision: str | None = None,
    model_id: str | None = None,
    on_progress: Callable[[str], None] | None = None,
    timeout: float = 600,
) -> ModelRegistered:
    """Find out what a model is, without its weights, in a child process; blocks. Raises InspectionFailed."""
    arguments = ["model", absolute(source), *_options(revision=revision)]
    facts = _inspect(arguments, on_progress, timeout)
    return _registered({**facts, "model_id": model_id or source}, ModelRegistered)


def inspect_dataset(
    source: str,
    *,
    pattern: str | None = None,
    configuration: str | None = None,
    split: str | None = None,
    text_column: str | None = None,
    revision: str | None = None,
    dataset_id: str | None = None,
    on_progress: Callable[[str], None] | None = None,
    timeout: float = 600,
) -> DatasetRegistered:
    """Find out what a data set is in a child process; blocks. Raises InspectionFailed."""
    options = _options(
        pattern=pattern, configuration=configuration, split=split, text_column=text_column, revision=revision
    )
    facts = _inspect(["dataset", absolute(source), *options], on_progress, timeout)
    return _registered({**facts, "dataset_id": dataset_id or source}, DatasetRegistered)


def inspect_activations(
    source: str, *, on_progress: Callable[[str], None] | None = None, timeout: float = 600
) -> StoredActivations:
    """Find out what a folder of activations holds in a child process; blocks. Raises InspectionFailed."""
    facts = _inspect(["activations", absolute(source)], on_progress, timeout)
    return msgspec.convert(facts, StoredActivations)


def _same_source(known: str, reference: str) -> bool:
    return known == reference or known == absolute(reference)


def _options(**options: str | None) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]


def _registered(facts: dict[str, Any], kind: type[Any]) -> Any:
    fields = {field.name for field in msgspec.structs.fields(kind)}
    chosen = {name: value for name, value in facts.items() if name in fields}
    return msgspec.convert({**chosen, "type": kind.__name__}, kind)


def _inspect(arguments: list[str], on_progress: Callable[[str], None] | None, timeout: float) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "core.activations.inspect", *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    assert child.stdout is not None
    assert child.stderr is not None
    last: list[str] = []

    def follow(lines: Iterable[str]) -> None:
        for line in lines:
            last[:] = [*last[-4:], line.strip()]
            if on_progress is not None and line.startswith("progress: "):
                on_progress(line.removeprefix("progress: ").strip())

    reader = threading.Thread(target=follow, args=(child.stderr,), daemon=True)
    reader.start()
    killer = threading.Timer(timeout, child.kill)
    killer.start()
    try:
        with child:
            output = child.stdout.read()
            child.wait()
            reader.join()
    finally:
        overdue = not killer.is_alive()
        killer.cancel()
    try:
        answer = json.loads(output)
    except json.JSONDecodeError as error:
        reason = f"it took longer than {timeout:g} seconds" if overdue else next(iter(last[::-1]), "no output")
        raise InspectionFailed(f"'{arguments[1]}' could not be inspected: {reason}.") from error
    if "error" in answer:
        raise InspectionFailed(answer["error"])
    return answer
