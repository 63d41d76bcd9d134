"""`doctor`: what it finds on this machine, and what it makes of machines that lack something."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_harness import Cli

from core.cli.doctor import Finding, _storage, _torch

PLAIN: dict[str, Any] = {
    "torch": "2.13.0",
    "cuda_build": None,
    "hip_build": None,
    "driver_cuda": None,
    "cuda_available": False,
    "remarks": [],
    "devices": [],
    "auto": "cpu",
    "auto_name": "a CPU",
}
GPU = {"device": "cuda:0", "name": "H100", "memory_free": 70_000_000_000, "memory_total": 80_000_000_000}


def about(subject: str, findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.subject == subject)


@pytest.mark.slow
def test_this_machine_is_fit_and_torch_is_asked_in_a_process_of_its_own(cli: Cli) -> None:
    found = cli("doctor", "--json")
    assert found.status == 0, found.out
    report = found.json()
    assert report["torch"]["auto"] in ("cpu", *(device["device"] for device in report["torch"]["devices"]))
    assert report["versions"]["torch"] == report["torch"]["torch"]
    assert {finding["subject"] for finding in report["findings"]} >= {
        "Python", "data directory", "file system", "disk", "server", "PyTorch", "device = auto",
    }  # fmt: skip
    assert "core.training.doctor" not in sys.modules
    assert not cli.data_dir.exists()


@pytest.mark.slow
def test_a_server_and_a_holder_that_does_not_answer_are_told_apart(served: Cli, cli: Cli) -> None:
    from core import lock
    from core.settings import Settings

    assert "runs at http" in served("doctor").out
    with lock.hold(Settings(data_dir=cli.data_dir)):
        found = cli("doctor").out
    assert f"process {os.getpid()} holds the data directory, but no server answers" in found


@pytest.mark.parametrize(
    ("facts", "state", "said"),
    [
        ({}, "ok", "built for the CPU"),
        ({"driver_cuda": "12.8"}, "problem", "there is an NVIDIA driver for CUDA 12.8"),
        ({"cuda_build": "13.0", "driver_cuda": "12.8"}, "problem", "the driver runs CUDA 12.8 at most"),
        ({"cuda_build": "12.8", "driver_cuda": "13.0", "cuda_available": True, "devices": [GPU]}, "ok", "CUDA 12.8"),
        ({"cuda_build": "12.8"}, "ok", "for CUDA 12.8"),
    ],
)
def test_torchs_build_is_held_against_the_driver(facts: dict[str, Any], state: str, said: str) -> None:
    finding = about("PyTorch", list(_torch({**PLAIN, **facts})))
    assert finding.state == state
    assert said in finding.text


@pytest.mark.parametrize(
    ("devices", "why"),
    [([], "no CUDA device"), ([GPU], "the only GPU"), ([GPU, {**GPU, "device": "cuda:1"}], "most free memory")],
)
def test_what_auto_would_choose_is_told_with_the_reason(devices: list[Any], why: str) -> None:
    assert why in about("device = auto", list(_torch({**PLAIN, "devices": devices}))).text


def test_a_data_directory_that_is_not_there_yet_is_judged_by_where_it_would_be(tmp_path: Path) -> None:
    findings = list(_storage(tmp_path / "not" / "yet"))
    assert "not made yet" in about("data directory", findings).text
    assert about("disk", findings).state in ("ok", "warning")
