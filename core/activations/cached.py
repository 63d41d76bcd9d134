"""A cache on disk of the activations that a language model gives: read from there, the same to the bit.

`FOLDER/KEY/` holds `manifest.json`, which says what the key is made of, and a folder for each layer and hook with a
file for each pass: `x` (tokens, n) in the model's own type, so that such a folder can be trained on by itself as well.
A file is written under another name and renamed, and carries a checksum: one that is damaged is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .hooks import Pair
from .models import LanguageModel
from .reading import ActivationReader

log = logging.getLogger("core.activations")

RESERVE = 1 << 30
"""Bytes that stay free on the disk: checkpoints and events need it more."""

_LAYOUT = 1
_SAMPLED = 256


class CachedPasses:
    """The passes of `reader`, each kept below `folder` when it was read for the first time.

    `device_name` is what the device is called: another kind of it rounds otherwise. `say(sentence)` is told once where
    the disk takes no more; what is kept is still read then.
    """

    def __init__(self, reader: ActivationReader, folder: Path, device_name: str, say: Callable[[str], None]) -> None:
        self._reader = reader
        self._root, self._say = folder, say
        self._device_name = device_name
        self._off = False
        self.manifest = _manifest(reader, device_name)
        self.folder = folder / hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:32]
        self._begin()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self._reader.pairs

    @property
    def rows_per_pass(self) -> int:
        return self._reader.rows_per_pass

    @property
    def dtype(self) -> torch.dtype:
        return self._reader.dtype

    @property
    def device(self) -> torch.device:
        return self._reader.device

    @property
    def tokens(self) -> int | None:
        return self._reader.tokens

    def width(self, pair: Pair) -> int:
        return self._reader.width(pair)

    def count(self, number: int) -> int:
        return self._reader.count(number)

    def epoch(self, number: int) -> int:
        return self._reader.epoch(number)

    def identity(self) -> dict[str, Any]:
        return self._reader.identity()

    def resized(self, rows_per_pass: int) -> CachedPasses:
        return CachedPasses(self._reader.resized(rows_per_pass), self._root, self._device_name, self._say)

    def read(self, number: int) -> dict[Pair, Tensor]:
        """As the reader would. Only what is not kept yet is asked of the model."""
        kept = {pair: values for pair in self.pairs if (values := self._kept(pair, number)) is not None}
        missing = [pair for pair in self.pairs if pair not in kept]
        if missing:
            read = self._reader.of(missing).read(number)
            for pair, values in read.items():
                self._keep(pair, number, values)
            kept |= read
        return {pair: kept[pair] for pair in self.pairs}

    def _path(self, pair: Pair, number: int) -> Path:
        return self.folder / f"L{pair[0]}.{pair[1]}" / f"pass-{number:08}.safetensors"

    def _begin(self) -> None:
        path = self.folder / "manifest.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                draft = path.with_name(f".{path.name}.{os.getpid()}")
                draft.write_text(json.dumps(self.manifest, indent=1), "utf-8")
                draft.replace(path)
        except OSError as error:
            self._turn_off(str(error))

    def _kept(self, pair: Pair, number: int) -> Tensor | None:
        path = self._path(pair, number)
        try:
            with safe_open(path, framework="pt") as file:
                values, told = file.get_tensor("x"), (file.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            log.warning("Cached activations cannot be read and are made anew: %s (%s).", path, error)
            return None
        if told != _digest(values) or values.dtype != self.dtype:
            log.warning("Cached activations are damaged and are made anew: %s.", path)
            return None
        device = self.device
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values

    def _keep(self, pair: Pair, number: int, values: Tensor) -> None:
        if self._off:
            return
        path = self._path(pair, number)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        values = values.to("cpu").contiguous()
        try:
            path.parent.mkdir(exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if free - values.nbytes < RESERVE:
                raise OSError(f"only {free / 1e9:.1f} GB are free")
            # Not flushed to disk one by one: what a crash leaves of a file has not its checksum.
            save_file({"x": values}, draft, metadata={"sha256": _digest(values)})
            draft.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            self._turn_off(str(error))

    def _turn_off(self, why: str) -> None:
        self._off = True
        self._say(f"No more activations are kept in {self.folder} ({why}); training goes on without.")


def _manifest(reader: ActivationReader, device_name: str) -> dict[str, Any]:
    """What decides the bits of every pass, whatever hooks are read."""
    lm, rows = reader.lm, reader.rows
    facts, packing = lm.facts, rows.packing
    return {
        "layout": _LAYOUT,
        "model": {
            "source": facts.source,
            "revision": facts.revision,
            "family": facts.family,
            "layers": facts.layers,
            "width": facts.hidden_dim,
            "weights": weights_digest(lm),
        },
        "corpus": rows.fingerprint,
        "data_seed": rows.data_seed,
        "context_size": packing.context_size,
        "rule": {"special_ids": sorted(packing.special_ids), "skip_first": packing.skip_first, "bos": packing.bos},
        "rows_per_pass": reader.rows_per_pass,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": {"type": lm.device.type, "name": device_name},
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def weights_digest(lm: LanguageModel) -> str:
    """Digest of a sample of every parameter: a model that was trained on has another one, under whatever name."""
    found = hashlib.sha256()
    for name, parameter in sorted(lm.model.named_parameters()):
        flat = parameter.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, min(_SAMPLED, len(flat)), device=flat.device).long()
        found.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        found.update(flat[places].to(torch.float32).cpu().numpy().tobytes())
    return found.hexdigest()


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.flatten().view(torch.uint8).numpy().data).hexdigest()
