"""SAELens in a virtual environment of its own, built once and kept: the program that exports are meant for."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from core.export import SAE_LENS

KEPT_IN = "SAESTUDIO_SAELENS_VENV"
"""Names the folder that the environment is kept in; pytest's cache where it is not set."""

_LOAD = Path(__file__).with_name("saelens_load.py")


class Loaded(NamedTuple):
    """What SAELens makes of raw activations: latents (B, F) and output (B, n)."""

    latents: np.ndarray
    output: np.ndarray


def environment(cache: pytest.Cache) -> Path:
    """The interpreter of an environment with SAELens. Fails the test where there can be none, with the reason."""
    ours = sysconfig.get_path("purelib")
    wanted = hashlib.sha256(f"{SAE_LENS}\n{sys.version}\n{ours}".encode()).hexdigest()[:16]
    kept = Path(os.environ.get(KEPT_IN) or cache.mkdir("saelens"))
    kept.mkdir(parents=True, exist_ok=True)
    folder = kept / wanted
    interpreter, stamp = folder / "bin" / "python", folder / "installed"
    with (kept / "lock").open("w") as lock:
        # Several workers may want it at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists():
            _run([sys.executable, "-m", "venv", "--clear", str(folder)], "made")
            # It sees the packages of this environment, torch above all, and installs only what SAELens needs besides.
            site = next((folder / "lib").glob("python3.*")) / "site-packages"
            (site / "studio.pth").write_text(f"{ours}\n")
            install = ["-m", "pip", "install", "--no-input", "--no-compile", "--disable-pip-version-check"]
            _run([str(interpreter), *install, f"sae-lens=={SAE_LENS}"], "filled")
            stamp.touch()
    return interpreter


def load(interpreter: Path, folder: Path, raw: np.ndarray, scratch: Path) -> dict[str, Loaded]:
    """Every export in `folder` as `SAE.load_from_disk` loads it, at work on `raw (B, n)`."""
    np.save(scratch / "raw.npy", raw)
    # -I: neither this checkout nor anything in the environment's variables belongs to that program.
    command = [str(interpreter), "-I", str(_LOAD), str(scratch / "raw.npy"), str(folder), str(scratch)]
    _run(command, "asked")
    found: dict[str, Loaded] = {}
    for file in sorted(scratch.glob("*.npz")):
        with np.load(file) as arrays:
            found[file.stem] = Loaded(arrays["latents"], arrays["output"])
    return found


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-15:])
        pytest.fail(f"An environment with sae-lens {SAE_LENS} could not be {what}:\n{end}", pytrace=False)
