"""`saestudio export`: a training's SAEs as files that other programs load."""

from __future__ import annotations

import argparse
from pathlib import Path

from core import run
from core.settings import Settings

from . import output
from .client import data_dir, run_folder
from .failure import Failure


def export(options: argparse.Namespace) -> int:
    """Write every SAE of a checkpoint, the newest where no step is named, into a folder or file of its own."""
    from core.export import ExportError, exported, write

    settings = Settings(data_dir=data_dir(options))
    folder = run_folder(settings, options.id)
    checkpoint = _checkpoint(folder, options.step)
    target: Path = options.to or Path(f"{folder.name}-{checkpoint.name}")
    try:
        spec = run.read(folder)
        written = [write(sae, target, options.format) for sae in exported(checkpoint, spec)]
    except (ExportError, run.RunSpecError) as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"{target} cannot be written: {error.strerror or error}.") from error
    if options.json:
        output.print_json(
            {"training": folder.name, "step": _step(checkpoint), "written": [str(one) for one in written]}
        )
        return 0
    for one in written:
        output.out().print(str(one), markup=False)
    how = f" In SAELens: SAE.load_from_disk({str(written[0])!r})" if options.format == "saelens" else ""
    output.out().print(f"Written of step {_step(checkpoint):,}.{how}", markup=False)
    return 0


def _checkpoint(folder: Path, step: int | None) -> Path:
    """Raises `Failure` where there is none."""
    found = sorted((folder / run.CHECKPOINTS).glob("step-*"), key=_step)
    if step is not None:
        found = [one for one in found if _step(one) == step]
    if not found:
        which = "no checkpoint" if step is None else f"no checkpoint of step {step:,}"
        raise Failure(f"Training {folder.name} has {which}.")
    return found[-1]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
