"""Small random models of every supported family, with a tokenizer and some prose."""

import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 300
CONTEXT = 32

_COMMON = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": CONTEXT,
}
_GEMMA = {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
FAMILY_SETTINGS = {
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": CONTEXT},
    "gpt_neo": {
        "hidden_size": 16,
        "num_layers": 3,
        "num_heads": 2,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": 8,
        "max_position_embeddings": CONTEXT,
    },
    "llama": {},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "phi": {},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    # The multimodal form; its text part is what is read.
    "gemma3": {
        "text_config": {**_COMMON, **_GEMMA, "vocab_size": VOCABULARY, "initializer_range": 0.3},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    },
    "gpt_neox": {},
}

PROSE = [
    f"Document number {i} speaks of {word}s: a {word} is a {word}, and {i} {word}s make a heap. " * (1 + i % 4)
    for i, word in enumerate(["tree", "river", "stone", "cloud", "lamp", "wheel", "bridge", "letter"] * 15)
]


def make_tokenizer(*, bos: bool, eos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that adds <s> by itself where it has one."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = (["<s>"] if bos else []) + (["</s>"] if eos else [])
    bpe.train_from_iterator(
        PROSE,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    named = {}
    if bos:
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
        )
        named["bos_token"] = "<s>"
    if eos:
        named["eos_token"] = "</s>"
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **named)


def make_model(folder: Path, family: str, *, bos: bool = False, eos: bool = True, seed: int = 0) -> Path:
    """A random model of `family` with a tokenizer, saved as a folder in the standard layout."""
    settings = FAMILY_SETTINGS[family]
    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
    if family == "gemma3":
        common = {}
    elif family not in ("gpt2", "gpt_neo"):
        common |= _COMMON
    config = AutoConfig.for_model(family, **{**common, **settings})
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer(bos=bos, eos=eos).save_pretrained(folder)
    return folder
