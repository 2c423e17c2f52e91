"""Tiny random checkpoints of real architectures: small, but keeping what is odd about the real one (head_dim that is
not hidden/heads, grouped heads, windows shorter than the prompts, several layer types, scaled RoPE, sinks)."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

_COMMON: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 512,
}
_MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_GPT2 = {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 512}

CAUSAL_LMS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": LLAMA3_ROPE},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {**_MOE, "head_dim": 32, "decoder_sparse_step": 1, "norm_topk_prob": True},
    "mistral": {"sliding_window": 16},
    "mixtral": {**_MOE},
    "gemma2": {"head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 24},
    "gemma3_text": {"head_dim": 32, "sliding_window": 16, "num_hidden_layers": 3, "sliding_window_pattern": 2},
    "phi3": {
        "num_key_value_heads": 4,
        "original_max_position_embeddings": 512,
        "rope_parameters": LONG_ROPE,
    },
    "gpt2": {**_GPT2},
    "gpt_bigcode": {**_GPT2, "multi_query": True},
    "gpt_neox": {"rotary_pct": 0.25},
    "gpt_oss": {**_MOE, "head_dim": 32, "sliding_window": 16},
    "falcon": {"multi_query": True, "alibi": False, "new_decoder_architecture": False, "parallel_attn": True},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "bloom": {"n_head": 4, "n_layer": 2},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 32},
    "starcoder2": {"sliding_window": 16},
    "olmo2": {},
    "granite": {"attention_multiplier": 0.2, "logits_scaling": 4.0, "residual_multiplier": 0.5},
    "granitemoe": {**_MOE, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
    "cohere2": {"sliding_window": 16, "num_hidden_layers": 4, "sliding_window_pattern": 2},
    "stablelm": {"partial_rotary_factor": 0.5, "use_qkv_bias": True},
    "smollm3": {"no_rope_layer_interval": 2},
}


_LATENT_CHANGES: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
}
LATENT_ATTENTION = {"deepseek_v3": _LATENT_CHANGES}
"""Attention whose cache holds latents: one head, keys and values of different sizes."""

_SPREAD = {"bloom": {"matrices": 1.0}, "gemma3_text": {"zeros": 1.0}}
"""Where the usual spread of the weights lets a model repeat one token."""


def causal_lm(name: str, seed: int = 0, **changes: Any) -> Any:
    """A random float32 causal LM of architecture ``name``, on which greedy decoding does not collapse."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # A copy, since a config writes into its dicts.
    values = deepcopy({**_COMMON, **(CAUSAL_LMS | LATENT_ATTENTION)[name], **changes})
    config = AutoConfig.for_model(name, **values)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    # The usual 0.02 makes logits so flat that any two runs agree or tie; spread them.
    spread = {"matrices": 0.15, "zeros": 0.1} | _SPREAD.get(name, {})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                is_embedding = "emb" in name or "wte" in name or "wpe" in name
                parameter.normal_(0.0, 0.03 if is_embedding else spread["matrices"])
            elif parameter.abs().sum() == 0:
                parameter.normal_(0.0, spread["zeros"])
    model.generation_config.eos_token_id = config.eos_token_id
    return model


def encoder() -> Any:
    """A random float32 BERT without a head."""
    from transformers import AutoModel

    return _bert(AutoModel)


def classifier(num_labels: int) -> Any:
    """A random float32 BERT that gives a text ``num_labels`` logits."""
    from transformers import AutoModelForSequenceClassification

    return _bert(AutoModelForSequenceClassification, num_labels=num_labels)


def _bert(auto_class: Any, **values: Any) -> Any:
    import torch
    from transformers import AutoConfig

    sizes = {name: _COMMON[name] for name in ("vocab_size", "hidden_size", "num_attention_heads")}
    config = AutoConfig.for_model("bert", **sizes, num_hidden_layers=2, intermediate_size=96, **values)
    torch.manual_seed(0)
    return auto_class.from_config(config, dtype=torch.float32).eval()


def save(model: Any, folder: Path) -> Path:
    """Write ``model`` as a checkpoint folder in safetensors."""
    model.save_pretrained(folder)
    return folder


def save_colbert(folder: Path, query_len: int, **settings: Any) -> Path:
    """Write a tiny BERT with a layer for the vectors of its tokens, in the layout of PyLate."""
    import torch
    from safetensors.torch import save_file

    model, tokenizer = encoder(), tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.add_tokens(["[Q] ", "[D] "])
    model.resize_token_embeddings(len(tokenizer))
    save(model, folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Dense").mkdir()
    identity = {"activation_function": "torch.nn.modules.linear.Identity", "bias": False}
    (folder / "1_Dense" / "config.json").write_text(json.dumps(identity))
    weight = torch.randn(24, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    save_file({"linear.weight": weight}, folder / "1_Dense" / "model.safetensors")
    kinds = ("sentence_transformers.models.Transformer", "pylate.models.Dense.Dense")
    modules = [{"path": path, "type": kind} for path, kind in zip(("", "1_Dense"), kinds, strict=True)]
    (folder / "modules.json").write_text(json.dumps(modules))
    values = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": query_len, **settings}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(values))
    return folder


_TEXT = """The library takes a checkpoint from the hub, lowers it, exports it, compiles it and runs it on the card
or on the processor that is there. A user asks the assistant a question; the assistant answers, and the user asks more.
My name is John and I am an engineer. What is the capital of France? The capital of France is Paris."""
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 320 tokens with a chat template: pad 0, bos 1 (before every text), eos 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_COMMON["vocab_size"], special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=special[3:],
        chat_template=_CHAT_TEMPLATE,
    )
