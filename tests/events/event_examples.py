"""One full example of every event type, every field set to something else than its default.

For a new type, or a new field with a default: extend its example here, move its golden files to `NAME.1.json` and
`NAME.1.msgpack` (they must be readable for ever), and run `python tests/events/event_examples.py`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from events.catalog import DatasetRegistered, DatasetRemoved, ModelRegistered, ModelRemoved
from events.codec import encode
from events.control import (
    CheckpointRequested,
    PauseRequested,
    ResumeRequested,
    StopRequested,
    TrainingCreated,
    TrainingDeleted,
    TrainingInterrupted,
    TrainingLaunched,
    TrainingNoted,
    TrainingPurged,
    TrainingRenamed,
    TrainingTagged,
    WriterClaimed,
)
from events.event import Event, EventPurged, EventRejected
from events.log import LogWritten
from events.template import (
    TemplateDeleted,
    TemplateEdited,
    TemplateFavourited,
    TemplateRenamed,
    TemplateRestored,
    TemplateSaved,
)
from events.training import (
    CheckpointDeleted,
    CheckpointSaved,
    EvaluationMade,
    MetricsLogged,
    Sae,
    StepTrained,
    TrainingCompleted,
    TrainingConfig,
    TrainingFailed,
    TrainingPaused,
    TrainingResumed,
    TrainingStarted,
    TrainingStopped,
    TroubleReported,
)

CONFIG = TrainingConfig(
    model="openai-community/gpt2",
    datasets=("stdlib", "/data/words.jsonl"),
    dataset_weights=(3.0, 1.0),
    activations="/data/activations",
    shuffle=False,
    cache=True,
    training_layers=(1, 2),
    hook_types=("mlp_in", "resid_pre"),
    target_hook_type="attn_out",
    target_layer_offset=1,
    context_size=128,
    architecture_type="transcoder",
    activation="relu",
    hidden_dim=768,
    latent_dim=12_288,
    skip_rank=16,
    variants=({"k": 64, "seed": 1},),
    normalize_activations="none",
    normalize_decoder=False,
    k=32,
    top_k_sparsity=0.5,
    target_l0=0.01,
    l1_alpha=0.02,
    sparsity_coeff=0.03,
    initial_threshold=0.04,
    bandwidth=0.05,
    dead_token_threshold=100_000,
    auxk_coefficient=0.125,
    resample_interval=2_500,
    share_latents_after=0.75,
    total_steps=2_000,
    batch_size=2_048,
    micro_batch_size=512,
    learning_rate=0.0004,
    warmup_steps=100,
    decay_steps=400,
    weight_decay=0.01,
    grad_clip_norm=1.5,
    seed=7,
    data_seed=2**63 - 1,
    device="cuda:1",
    dtype="bfloat16",
    model_dtype="float16",
    checkpoint_interval=500,
    checkpoints_kept=2,
    eval_interval=250,
    log_interval=50,
    auto_resume=True,
)

EXAMPLES: tuple[Event, ...] = (
    EventPurged(),
    EventRejected(raw=b"\x81\xa4type\xff", reason="Not a frame: Input data was truncated."),
    TrainingStarted(
        pid=4_711,
        host="gpu-box",
        device="cuda:0",
        device_name="NVIDIA H100",
        versions={"torch": "2.13.0", "saestudio": "0.1.0"},
        data_fingerprint="sha256:0f1e2d",
        saes=(
            Sae(
                layer=1,
                hook="mlp_in",
                target_layer=2,
                target_hook="mlp_out",
                variant=3,
                mean_ratio=0.25,
                folder="retina",
            ),
            Sae(layer=2, hook="resid_post"),
        ),
        config=CONFIG,
        parameters=18_900_000,
        resumed_from=500,
    ),
    StepTrained(
        step=4_294_967_295,
        sae=1,
        loss=0.5,
        loss_reconstruction=0.375,
        loss_sparsity=0.0625,
        loss_auxiliary=0.03125,
        l0=31.75,
        l0_fraction=0.0025,
        fvu=0.15625,
        dead_latents=12,
        learning_rate=0.00019999,
        sparsity_coefficient=0.0123456789,
        grad_norm=1.25,
        tokens=9_223_372_036_854_775_807,
        tokens_per_second=102_400.0,
        device_memory=81_604_378_624,
    ),
    MetricsLogged(step=3, values={"loss": 0.25, "lr": None}),
    CheckpointSaved(
        step=500, path="/data/c/step-00000500", size=75_600_000, host="gpu-box", loss=0.5, fvu=0.25, reason="request"
    ),
    CheckpointDeleted(step=250, reason="request"),
    EvaluationMade(
        step=500,
        sae=1,
        tokens=65_536,
        fvu=0.125,
        l0=31.5,
        dead_latents=4,
        dense_latents=2,
        duplicate_latents=1,
        ce_clean=3.5,
        ce_spliced=3.625,
        ce_ablated_zero=9.5,
        ce_ablated_mean=7.25,
        kl_spliced=0.0625,
        loss_recovered=0.96875,
        shrinkage=0.03125,
        density_histogram=(0, 3, 5, 8),
        verdict="watch",
        reasons=("2 latents fire on more than every tenth token.",),
        fvu_affine=0.25,
    ),
    TrainingPaused(step=501),
    TrainingResumed(step=500),
    TrainingStopped(step=750),
    TrainingCompleted(step=2_000, seconds=123.5),
    TrainingFailed(error="The loss is not a number at step 12.", traceback='Traceback …\n  File "loop.py"', step=12),
    ModelRegistered(
        model_id="gpt2",
        source="openai-community/gpt2",
        revision="607a30d",
        title="GPT-2 small",
        family="gpt2",
        hidden_dim=768,
        layers=12,
        hooks=("resid_pre", "resid_post", "attn_out", "mlp_in", "mlp_out"),
        context_size=1_024,
        vocab_size=50_257,
        parameters=124_439_808,
    ),
    DatasetRegistered(
        dataset_id="words",
        source="/data/words",
        title="Words",
        format="jsonl",
        pattern="**/*.jsonl",
        configuration="en",
        split="train",
        text_column="body",
        revision="a1b2c3",
        documents=1_000,
        size=4_096_000,
    ),
    ModelRemoved(model_id="openai-community/gpt2"),
    DatasetRemoved(dataset_id="/data/words"),
    TrainingCreated(
        name="gpt2 · L1 · topk",
        config=CONFIG,
        kind="external",
        launcher="external",
        template_id="01k8z3v6q9xw2b",
        retry_of="01k8z3v6q9xw2a",
    ),
    TrainingLaunched(launcher="local", pid=4_711, host="gpu-box", device="cuda:0"),
    WriterClaimed(epoch=2, first_version=751, host="gpu-box", pid=4_711),
    PauseRequested(),
    ResumeRequested(),
    StopRequested(),
    CheckpointRequested(),
    TrainingInterrupted(reason="Its process is gone.", stderr_tail="Killed\n"),
    TrainingRenamed(name="Größer"),
    TrainingTagged(tags=("baseline", "paper")),
    TrainingNoted(note="**Dead** latents *rise*."),
    TrainingDeleted(removed=("/data/c/step-00000500",), bytes_freed=75_600_000),
    TroubleReported(message="The checkpoint of step 500 could not be saved."),
    TrainingPurged(events=3_141, bytes_freed=59_265),
    LogWritten(level="WARNING", logger="core.training", message="Zeile 1\nline 2 \u2028 \U0001f9e0"),
    TemplateSaved(name="Small", description="For a first try.", config=CONFIG),
    TemplateEdited(description="For a second try.", config=msgspec.structs.replace(CONFIG, k=16)),
    TemplateRenamed(name="Tiny"),
    TemplateFavourited(favourite=True),
    TemplateDeleted(),
    TemplateRestored(version=3),
)

GOLDEN = Path(__file__).parent / "golden"


def write_missing() -> None:
    """Writes the golden bytes of types that have none; those that exist are a promise and stay as they are."""
    GOLDEN.mkdir(exist_ok=True)
    for event in EXAMPLES:
        for format in ("json", "msgpack"):
            path = GOLDEN / f"{type(event).__name__}.{format}"
            if not path.exists():
                path.write_bytes(encode(event, format))
                print(f"{path.name} written")


if __name__ == "__main__":
    write_missing()
