"""One SAE's step: what it learns, and what its figures say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from synthetic import CPU, PAIRS, Synthetic, config, students

from core.sae.normalisation import Ends, Normalisation, Scaled, normalisation
from core.sae.recipe import Firing
from core.sae.registry import ARCHITECTURES
from core.training.student import FIELDS, Student, rate


def _train(student: Student, source: Synthetic, steps: int, **changed: object) -> list[list[float]]:
    chosen = config(**changed)
    return [student.step(source.next_batch(), step, rate(chosen, step)).tolist() for step in range(1, steps + 1)]


def _figures(factor: float, steps: int = 30, **changed: object) -> list[list[float]]:
    source = Synthetic(PAIRS[:1], factor=factor)
    return _train(students(config(**changed), source)[0], source, steps, **changed)


@pytest.mark.parametrize("mode", ["expected_average_only_in", "layer_norm", "constant_norm_rescale"])
def test_the_unit_of_the_data_changes_nothing(mode: str) -> None:
    small, large = _figures(1.0, normalize_activations=mode), _figures(10.0, normalize_activations=mode)
    torch.testing.assert_close(torch.tensor(small), torch.tensor(large), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_the_unit_of_the_data_changes_no_penalty(kind: str) -> None:
    # A power of two rounds alike: no latent is active in one of them only.
    assert _figures(1.0, **_asked(kind)) == _figures(8.0, **_asked(kind))


def test_the_width_is_that_of_the_activations_and_not_of_the_form() -> None:
    source = Synthetic(PAIRS[:1])
    (student,) = students(config(hidden_dim=99), source)
    assert (student.width, student.source_width) == (16, 16)
    student.step(source.next_batch(), 1, 1e-3)


def test_the_loss_is_in_units_of_fvu_without_normalisation_too() -> None:
    small, large = (torch.tensor(_figures(f, steps=1, normalize_activations="none")) for f in (1.0, 10.0))
    fvu = FIELDS.index("fvu")
    torch.testing.assert_close(small[:, : fvu + 1], large[:, : fvu + 1], rtol=1e-4, atol=1e-6)
    assert float(small[0, 0]) == pytest.approx(float(small[0, fvu]), rel=0.3)


def test_it_learns() -> None:
    figures = _figures(1.0, steps=150, total_steps=150)
    fvu = FIELDS.index("fvu")
    assert figures[-1][fvu] < 0.7 * figures[0][fvu]


def test_decoder_rows_have_norm_one_after_every_step() -> None:
    source = Synthetic(PAIRS[:1])
    (student,) = students(config(), source)
    for step in range(1, 12):
        student.step(source.next_batch(), step, 0.01)
        torch.testing.assert_close(student.sae.W_dec.detach().norm(dim=1), torch.ones(96), rtol=0, atol=1e-6)


def test_a_free_decoder_is_left_free() -> None:
    source = Synthetic(PAIRS[:1])
    (student,) = students(config(normalize_decoder=False), source)
    _train(student, source, 12)
    assert float((student.sae.W_dec.detach().norm(dim=1) - 1).abs().max()) > 1e-3


def test_the_gradient_is_clipped_at_the_default_or_at_the_given_norm() -> None:
    def first_moment(**changed: object) -> float:
        source = Synthetic(PAIRS[:1])
        chosen = config(**changed)
        (student,) = students(chosen, source)
        student.step(source.next_batch(), 1, rate(chosen, 1))
        moments = [tensor for name, tensor in student.optimiser.tensors().items() if name.endswith("exp_avg")]
        return 10 * float(torch.cat([moment.flatten() for moment in moments]).norm())

    whole = first_moment(grad_clip_norm=0)
    assert first_moment(grad_clip_norm=whole / 7) == pytest.approx(whole / 7, rel=1e-4)
    source = Synthetic(PAIRS[:1])
    bound = students(config(), source)[0].normalisation.variance ** -0.5
    assert first_moment() == pytest.approx(min(whole, bound), rel=1e-4)


def test_weight_decay_and_the_auxiliary_coefficient_are_not_ignored() -> None:
    plain = _figures(1.0)
    assert _figures(1.0) == plain
    assert _figures(1.0, weight_decay=0.9) != plain
    assert _figures(1.0, auxk_coefficient=0.0) != plain
    assert _figures(1.0, dead_token_threshold=100) != plain
    assert max(row[FIELDS.index("loss_auxiliary")] for row in plain) > 0
    assert max(row[FIELDS.index("loss_auxiliary")] for row in _figures(1.0, auxk_coefficient=0.0)) == 0


def test_an_sae_does_not_depend_on_those_trained_beside_it() -> None:
    chosen, both, alone = config(), Synthetic(), Synthetic(PAIRS[:1])
    beside = students(chosen, both)
    (only,) = students(chosen, alone)
    for step in range(1, 11):
        batch = both.next_batch()
        figures = [student.step(batch, step, rate(chosen, step)) for student in beside]
        assert torch.equal(figures[0], only.step(alone.next_batch(), step, rate(chosen, step)))
    assert torch.equal(beside[0].sae.W_dec, only.sae.W_dec)


@pytest.mark.parametrize("kind", ["standard", "gated"])
def test_dead_latents_begin_anew_where_the_reconstruction_is_worst(kind: str) -> None:
    chosen = config(
        architecture_type=kind, k=None, auxk_coefficient=None, normalize_decoder=None, target_l0=0.05,
        resample_interval=10, total_steps=60, dead_token_threshold=10**6,
    )  # fmt: skip
    source = Synthetic(PAIRS[:1])
    (student,) = students(chosen, source)
    sae = student.sae
    for step in range(1, 10):
        student.step(source.next_batch(), step, 3e-3)
    with torch.no_grad():
        # A third of the latents is silenced for good, far below what a push could reach.
        bias = sae.get_parameter("b_gate" if kind == "gated" else "b_enc")
        bias[::3] = -100.0
        sae.firing.since[::3] = 10**7
    batch = source.next_batch()
    x, _ = student.normalisation.apply(batch[PAIRS[0]])
    student.step(batch, 10, 3e-3)
    assert not bool((sae.firing.since > 10**6).any())
    rows = sae.W_dec.detach()
    norms = rows.norm(dim=1)
    alive = torch.ones(96, dtype=torch.bool)
    alive[::3] = False
    torch.testing.assert_close(norms[::3], norms[alive].mean().expand(32), rtol=1e-4, atol=0)
    fifth = 0.2 * sae.W_enc.detach()[alive].norm(dim=1).mean()
    torch.testing.assert_close(sae.W_enc.detach()[::3].norm(dim=1), fifth.expand(32), rtol=1e-4, atol=0)
    assert float(bias.detach()[::3].abs().max()) == 0.0
    # Each points at a token of the batch; no two at the same.
    towards = (x - sae.b_dec.detach()) / (x - sae.b_dec.detach()).norm(dim=1, keepdim=True)
    cosines, tokens = (rows[::3] / norms[::3, None] @ towards.T).max(dim=1)
    assert float(cosines.min()) > 0.999
    assert len(set(tokens.tolist())) == 32
    moments = student.optimiser.tensors()
    for name in ("W_enc", "W_dec"):
        assert float(moments[f"{name}.exp_avg"][::3].abs().max()) == 0.0
        assert float(moments[f"{name}.exp_avg_sq"][::3].abs().max()) == 0.0
        assert float(moments[f"{name}.exp_avg"][alive].abs().max()) > 0.0
    assert float(moments["b_dec.exp_avg"].abs().min()) > 0.0
    for step in range(11, 20):
        student.step(source.next_batch(), step, 3e-3)
    assert int((sae.firing.since[::3] == 0).sum()) > 8
    # A batch that is no number says nothing, and ends nothing.
    sae.firing.since[::3] = 10**7
    student.step({PAIRS[0]: torch.full_like(batch[PAIRS[0]], torch.nan)}, 20, 3e-3)


def test_its_reconstruction_is_in_raw_units() -> None:
    source = Synthetic(PAIRS[:1], factor=50.0)
    (student,) = students(config(total_steps=200), source)
    _train(student, source, 200, total_steps=200)
    raw = source.sample(9999, 512)[student.pair]
    output, code = student.reconstruct(raw)
    assert code.values.shape == code.active.col.shape == (512 * 4,)
    assert float((raw - output).square().sum() / (raw - raw.mean(dim=0)).square().sum()) < 0.6
    assert student.name == "L0.resid_post"
    assert student.parameters() == 2 * 96 * 16 + 96 + 16
    assert student.sae.W_dec.device == CPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_step_waits_for_the_gpu(dtype: str) -> None:
    device = torch.device("cuda")
    chosen = config(dtype=dtype, total_steps=200, dead_token_threshold=10**6)
    source = Synthetic(PAIRS[:1])
    raw = source.sample(0, 4096)[PAIRS[0]]
    scale, centre = normalisation(
        "expected_average_only_in", mean=raw.mean(0), mean_norm=4.0, variance=20.0, sample=raw
    )
    student = Student.new(chosen, PAIRS[0], Ends.same(scale, centre), device)
    batches = [{PAIRS[0]: source.next_batch()[PAIRS[0]].to(device)} for _ in range(8)]
    student.step(batches[0], 1, 1e-3)
    torch.cuda.synchronize()
    try:
        for step in range(2, 102):
            # The refresh of the dead latents is the one place that may wait.
            torch.cuda.set_sync_debug_mode("default" if step % Firing.REFRESH == 0 else "error")
            student.step(batches[step % 8], step, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
@pytest.mark.parametrize("part", [None, 32])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_no_step_asks_a_device_for_a_number_or_a_size(kind: str, part: int | None) -> None:
    # Tensors without contents: whatever depends on these, and would have to wait for a device, is an error.
    from torch._subclasses.fake_tensor import FakeTensorMode

    chosen = config(**_asked(kind), micro_batch_size=part)
    with FakeTensorMode():
        read, given = (Scaled(Normalisation("none", 1.0, 9.0, 0.0), torch.zeros(16)) for _ in range(2))
        ends, target = (Ends(read, given), PAIRS[1]) if kind in ("transcoder", "skip") else (Ends(read, read), None)
        student = Student.new(chosen, PAIRS[0], ends, CPU, target=target)
        student.sae.sparse = False  # as on every device but a CPU
        student.sae.firing.dead = torch.arange(30)
        batch = {pair: torch.zeros(64, 16) for pair in PAIRS}
        for step in range(1, Firing.REFRESH):
            student.step(batch, step, 1e-3)


def _asked(kind: str) -> dict[str, Any]:
    """So many latents a token that a CPU, too, looks for the batch's cut among all of them, as others always do."""
    if kind in ("standard", "gated", "jumprelu"):
        auxiliary = (
            {"auxk_coefficient": 1 / 8, "initial_threshold": 0.02, "bandwidth": 0.1} if kind == "jumprelu" else {}
        )
        return {"architecture_type": kind, "k": None, "target_l0": 0.1, "normalize_decoder": None, **auxiliary}
    return {"architecture_type": kind, "k": 24, "normalize_decoder": None}


def _crowded(student: Student, monkeypatch: pytest.MonkeyPatch, room: int) -> list[int]:
    """Let the student have memory for `room` tokens at once; what it tried, in tokens."""
    tried: list[int] = []
    computed = student.sae.losses

    def losses(x: torch.Tensor, *rest: Any) -> Any:
        tried.append(x.shape[0])
        found = computed(x, *rest)
        if x.shape[0] > room:
            raise torch.OutOfMemoryError("There is no more of it.")
        return found

    monkeypatch.setattr(student.sae, "losses", losses)
    return tried


@pytest.mark.parametrize("kind", ["batchtopk", "standard"])
def test_a_step_that_does_not_fit_into_memory_is_taken_again_in_parts(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sparsity: dict[str, Any] = {} if kind == "batchtopk" else {"k": None, "auxk_coefficient": None, "target_l0": 0.2}
    fields = {"architecture_type": kind, "batch_size": 256, "normalize_decoder": None, **sparsity}
    crowded, roomy = (Synthetic(PAIRS[:1], batch=256) for _ in range(2))
    (student,) = students(config(**fields), crowded)
    (other,) = students(config(**fields, micro_batch_size=64), roomy)
    tried = _crowded(student, monkeypatch, 100)
    for step in range(1, 6):
        ours = student.step(crowded.next_batch(), step, 3e-3)
        theirs = other.step(roomy.next_batch(), step, 3e-3)
        # Its first attempts left nothing behind.
        assert torch.equal(ours, theirs)
    assert tried[:6] == [256, 128, 64, 64, 64, 64]
    assert tried[6:] == [64] * 16
    assert all(torch.equal(tensor, other.sae.tensors()[name]) for name, tensor in student.sae.tensors().items())
    assert "step 1 does not fit into memory; it is taken again 64 tokens at a time" in caplog.text
    # A resume goes on with such parts: others would round otherwise.
    assert Student.of_facts(config(**fields), student.facts(), student.sae.tensors(), CPU).part == 64


def test_a_step_of_which_not_even_the_smallest_part_fits_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Synthetic(PAIRS[:1])
    (student,) = students(config(), source)
    tried = _crowded(student, monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        student.step(source.next_batch(), 1, 3e-3)
    assert tried == [64, 32]
