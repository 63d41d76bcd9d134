"""What nvidia-smi says, as a configuration's `device` counts it."""

from __future__ import annotations

from core.server.devices import Device, list_devices, names_to_check, parse, visible

SMI = """0, NVIDIA H100 80GB HBM3, 81559, 80994, 0
1, NVIDIA H100 80GB HBM3, 81559, 1024, 97
2, NVIDIA Something, [N/A], [N/A], [N/A]
garbage
"""


def test_gpus_are_listed_with_their_memory_in_bytes() -> None:
    first, second, third = parse(SMI)
    assert (first.id, first.kind, first.name) == ("cuda:0", "cuda", "NVIDIA H100 80GB HBM3")
    assert (first.memory_total, first.memory_free, first.utilization) == (81_559 * 2**20, 80_994 * 2**20, 0.0)
    assert (second.id, second.utilization) == ("cuda:1", 0.97)
    assert (third.memory_total, third.memory_free, third.utilization) == (None, None, None)


def test_a_mask_hides_and_renumbers_as_it_does_for_torch() -> None:
    devices = parse(SMI)
    assert visible(devices, None) == devices
    assert [(device.id, device.name) for device in visible(devices, "2,0")] == [
        ("cuda:0", "NVIDIA Something"),
        ("cuda:1", "NVIDIA H100 80GB HBM3"),
    ]
    assert visible(devices, "") == []
    assert [device.id for device in visible(devices, "1,-1,0")] == ["cuda:0"]
    assert [device.id for device in visible(devices, "7,0")] == []
    assert [device.id for device in visible(devices, "GPU-1234,GPU-5678")] == ["cuda:0", "cuda:1"]


def test_the_cpu_is_always_there() -> None:
    cpu = list_devices()[0]
    assert cpu.id == "cpu"
    assert cpu.memory_total is None or cpu.memory_total > 2**20
    assert "cpu" in (names_to_check([cpu, Device(id="cuda:0", kind="cuda", name="x")]) or ())
