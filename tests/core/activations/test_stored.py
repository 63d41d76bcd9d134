"""A folder of activations is opened for what it is, refused for what it is not, and known again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from stored_folders import activations, make_folder

from core.activations.stored import ActivationsError, as_float32, open_folder


def test_what_it_holds_is_told_without_reading_it_all(tmp_path: Path) -> None:
    make_folder(tmp_path, target_width=12, dtype=torch.bfloat16)
    (tmp_path / "notes.txt").write_text("mine")
    facts = open_folder(tmp_path).facts
    assert (facts.source, facts.width, facts.target_width, facts.dtype) == (str(tmp_path), 16, 12, "bfloat16")
    assert (facts.rows, facts.files, facts.row_bytes) == (1_000, 4, 2 * 28)
    assert facts.size == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert (facts.held_out, facts.training_rows) == (50, 950)


def test_files_follow_one_another_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    x, _ = make_folder(tmp_path, [3] * 12)
    assert np.array_equal(open_folder(tmp_path).read(0, 36), x.numpy())


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda counts: sum(counts) >= 2),
    data=st.data(),
)
def test_any_stretch_of_rows_is_what_the_files_hold_there(
    counts: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stored")
    x, t = make_folder(folder, counts, width=3, target_width=2, dtype=torch.bfloat16)
    rows = open_folder(folder)
    start = data.draw(st.integers(0, len(x) - 1))
    count = data.draw(st.integers(1, len(x) - start))
    assert t is not None
    for target, wanted in ((False, x), (True, t)):
        found = as_float32(rows.read(start, count, target=target))
        assert np.array_equal(found, wanted[start : start + count].float().numpy())


def test_bfloat16_is_read_to_the_bit(tmp_path: Path) -> None:
    x, _ = make_folder(tmp_path, [64], dtype=torch.bfloat16)
    raw = open_folder(tmp_path).read(0, 64)
    assert torch.equal(torch.from_numpy(raw).view(torch.bfloat16), x)


def _saved(folder: Path, name: str = "b.safetensors", **tensors: torch.Tensor) -> None:
    save_file(tensors, folder / name)


def _cut(folder: Path) -> None:
    path = folder / "part-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _not_finite(folder: Path) -> None:
    x = activations(300, 16)
    x[0, 3] = float("inf")
    _saved(folder, x=x)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "a.safetensors").write_bytes(b"PK"), r"a\.safetensors is no safetensors file"),
        (lambda folder: (folder / "a.safetensors").write_bytes(b"\x02" + bytes(7) + b"xx"), "its header is no JSON"),
        (_cut, r"part-1\.safetensors is cut off: its 'x' should be 300 rows of 16"),
        (lambda folder: _saved(folder, y=torch.zeros(2, 2)), r"b\.safetensors holds no 'x' of shape .*; it holds y"),
        (lambda folder: _saved(folder, x=torch.zeros(4)), r"holds 'x' of shape \(4,\)"),
        (lambda folder: _saved(folder, x=torch.zeros(4, 16).half()), "holds 'x' in F16; F32 and BF16 can be read"),
        (lambda folder: _saved(folder, x=torch.zeros(4, 8)), "of 16 dimensions and .* of 8; all files must be of one"),
        (lambda folder: _saved(folder, x=torch.zeros(4, 16).bfloat16()), "in float32 and .* in bfloat16; all files"),
        (
            lambda folder: _saved(folder, x=torch.zeros(4, 16), t=torch.zeros(4, 2)),
            r"b\.safetensors holds a 't' and .*part-1\.safetensors holds none",
        ),
        (
            lambda folder: _saved(folder, x=torch.zeros(4, 16), t=torch.zeros(3, 2)),
            "holds 4 rows of 'x' and 3 of 't'; they must be as many",
        ),
        (
            lambda folder: _saved(folder, x=torch.zeros(4, 16), t=torch.zeros(4, 2).bfloat16()),
            "holds 'x' in float32 and 't' in bfloat16; both must be of one type",
        ),
        (_not_finite, r"b\.safetensors holds 'x' that is not finite in row 0"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_its_file(spoil, sentence: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ActivationsError, match=sentence):
        open_folder(tmp_path)


def test_a_folder_without_activations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ActivationsError, match="There is no folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(ActivationsError, match=r"holds no \.safetensors files"):
        open_folder(tmp_path)
    make_folder(tmp_path, [1])
    with pytest.raises(ActivationsError, match="holds 1 rows; at least 2"):
        open_folder(tmp_path)


def test_a_file_that_becomes_shorter_while_it_is_read_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    rows = open_folder(tmp_path)
    _cut(tmp_path)
    with pytest.raises(ActivationsError, match=r"part-1\.safetensors is shorter than it was"):
        rows.read(0, 300)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(ActivationsError, match=r"part-1\.safetensors cannot be read: No such file"):
        rows.read(0, 1)


def test_the_fingerprint_tells_any_other_folder_and_not_the_place_or_the_time(tmp_path: Path) -> None:
    def spoilt(name: str, change=lambda folder: None) -> str:
        make_folder(tmp_path / name)
        change(tmp_path / name)
        return open_folder(tmp_path / name).fingerprint

    def flip(folder: Path) -> None:
        path = folder / "part-3.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    same = spoilt("a")
    assert spoilt("b", lambda folder: os.utime(folder / "part-1.safetensors", (1, 1))) == same
    changed = {
        spoilt("c", flip),
        spoilt("d", lambda folder: (folder / "part-4.safetensors").rename(folder / "part-9.safetensors")),
        spoilt("e", lambda folder: (folder / "part-4.safetensors").unlink()),
        spoilt("f", lambda folder: _saved(folder, "part-5.safetensors", x=torch.zeros(1, 16))),
    }
    assert len(changed | {same}) == 5
