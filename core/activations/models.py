"""Loading a language model safely: weights from safetensors only, and never any code that comes with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import msgspec
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig

from core.hook_names import FAMILIES
from events.training import HookType

from .hooks import HOOK_TYPES
from .hub import hub_failure, offline, one_line, unreachable
from .sources import SourceError, local_path, require_hub_id

ModelDtype = Literal["auto", "float32", "bfloat16", "float16"]


class ModelError(Exception):
    """A model that cannot be used; the message is one sentence for a person."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What can be known of a model without its weights.

    `revision` is the commit on the hub, None for a local folder; `family` the transformers `model_type`;
    `hidden_dim` the width of the residual stream; `context_size` in tokens; `parameters` a count, tied weights
    once; `dtype` the type that the weights are stored in, as far as the configuration says.
    """

    source: str
    revision: str | None
    title: str
    family: str
    hidden_dim: int
    layers: int
    hooks: tuple[HookType, ...]
    context_size: int
    vocab_size: int
    parameters: int
    bos_id: int | None
    eos_id: int | None
    dtype: str | None


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model ready to be read: in evaluation mode, its weights frozen."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: ModelFacts

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @torch.inference_mode()
    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits (R, C, vocabulary) for ids (R, C) on the model's device, without padding."""
        return self.model(input_ids=tokens, use_cache=False).logits


def load_model(
    source: str, *, revision: str | None = None, dtype: ModelDtype = "auto", device: torch.device | str
) -> LanguageModel:
    """Load a model from a local folder or, by its id, from the hub (`revision`: branch, tag or commit there).

    "auto" is bfloat16 on a GPU and float32 elsewhere. Raises ModelError for anything that cannot be used. A local
    folder is loaded without any network call.
    """
    device = torch.device(device)
    wanted = (torch.bfloat16 if device.type == "cuda" else torch.float32) if dtype == "auto" else getattr(torch, dtype)
    config, where = _configuration(source, revision)
    tokenizer = _tokenizer(source, where)
    with _sentences(source), _quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where.name,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=wanted,
            output_loading_info=True,
            **where.options,
        )
    model, loading = loaded
    if loading["missing_keys"]:
        raise ModelError(
            f"The weights of '{source}' are incomplete: {len(loading['missing_keys'])} tensors are missing, "
            f"{min(loading['missing_keys'])} for one."
        )
    model = model.to(device).eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, _facts(source, where, config, model, tokenizer))


def read_facts(source: str, *, revision: str | None = None) -> ModelFacts:
    """What `load_model` would find, read without the weights; raises ModelError as it would."""
    config, where = _configuration(source, revision)
    tokenizer = _tokenizer(source, where)
    _require_safetensors(source, where)
    with _sentences(source), _quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return _facts(source, where, config, model, tokenizer)


@dataclass(frozen=True)
class _Where:
    """How the loaders are told where a model lies."""

    name: str
    options: dict[str, Any]
    folder: Path | None


def _configuration(source: str, revision: str | None) -> tuple[PreTrainedConfig, _Where]:
    """The model's configuration, checked before anything else of the model is touched."""
    folder = local_path(source)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise ModelError(f"'{source}' is no model folder: it has no config.json.")
        where = _Where(str(folder), {"local_files_only": True}, folder)
    else:
        try:
            require_hub_id(source)
        except SourceError as error:
            raise ModelError(str(error)) from error
        where = _Where(source, {"revision": revision, "local_files_only": offline()}, None)
    with _sentences(source, where):
        raw, _ = PreTrainedConfig.get_config_dict(where.name, **where.options)
        if folder is None:
            # Everything else is loaded from the very commit whose configuration is checked here.
            where = _Where(where.name, {**where.options, "revision": _commit(source, revision)}, None)
    _refuse_code(source, raw)
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"'{source}' is of the family '{family}', which is not supported; "
            f"supported are {', '.join(sorted(FAMILIES))}."
        )
    with _sentences(source, where):
        config = AutoConfig.from_pretrained(where.name, trust_remote_code=False, **where.options)
    return config, where


def _commit(source: str, revision: str | None) -> str | None:
    """The commit that a branch or tag meant when the configuration was fetched, as the hub's cache lays it down."""
    cached = huggingface_hub.try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision


def _refuse_code(source: str, raw: dict[str, Any]) -> None:
    """Refuse a configuration that asks for code of its own, here or in one of its parts."""
    if "auto_map" in raw:
        raise ModelError(
            f"'{source}' brings code of its own (auto_map in its config.json), and code from models is never run."
        )
    for key in ("_attn_implementation", "attn_implementation", "_attn_implementation_internal"):
        value = raw.get(key)
        for name in value.values() if isinstance(value, dict) else (value,):
            if isinstance(name, str) and ("/" in name or "\\" in name):
                raise ModelError(
                    f"'{source}' asks for attention code from '{name}' ({key} in its config.json), "
                    "and code from models is never run."
                )
    for value in raw.values():
        if isinstance(value, dict):
            _refuse_code(source, value)


def _tokenizer(source: str, where: _Where) -> PreTrainedTokenizerBase:
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(where.name, trust_remote_code=False, **where.options)
        ids = tokenizer("The quick brown fox", add_special_tokens=False)["input_ids"]
    except Exception as error:
        raise ModelError(
            hub_failure(error, source, "model") or f"The tokenizer of '{source}' cannot be loaded: {one_line(error)}."
        ) from error
    # Where the files are missing, transformers makes an empty tokenizer of the family's class instead of failing.
    if set(ids) <= {tokenizer.unk_token_id}:
        raise ModelError(f"'{source}' has no tokenizer (a tokenizer.json beside its config.json).")
    return tokenizer


def _require_safetensors(source: str, where: _Where) -> None:
    if where.folder is not None:
        found = any(where.folder.glob("*.safetensors"))
    else:
        if where.options["local_files_only"]:
            return
        with _sentences(source, where):
            files = huggingface_hub.HfApi().list_repo_files(source, revision=where.options["revision"])
        found = any(name.endswith(".safetensors") and "/" not in name for name in files)
    if not found:
        raise ModelError(
            f"'{source}' has no safetensors weights, and other formats are not loaded because they can carry code."
        )


def _facts(
    source: str,
    where: _Where,
    config: PreTrainedConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> ModelFacts:
    text = config.get_text_config()
    dtype = getattr(config, "dtype", None) or getattr(text, "dtype", None)
    return ModelFacts(
        source=source,
        revision=where.options.get("revision"),
        title=where.folder.name if where.folder is not None else source,
        family=config.model_type,
        hidden_dim=text.hidden_size,
        layers=text.num_hidden_layers,
        hooks=HOOK_TYPES,
        context_size=text.max_position_embeddings,
        vocab_size=text.vocab_size,
        parameters=model.num_parameters(),
        bos_id=_id(tokenizer.bos_token_id),
        eos_id=_id(tokenizer.eos_token_id),
        dtype=str(dtype).removeprefix("torch.") if dtype is not None else None,
    )


def _id(value: object) -> int | None:
    return value if isinstance(value, int) else None


@contextlib.contextmanager
def _sentences(source: str, where: _Where | None = None) -> Iterator[None]:
    """Turn whatever a loader raises into one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if where is not None and where.options.get("local_files_only") and where.folder is None:
            raise ModelError(unreachable(source, "model")) from error
        raise ModelError(
            hub_failure(error, source, "model") or f"The model '{source}' cannot be loaded: {one_line(error)}."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice of the library's on stderr while a model is loaded."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
