"""A model in the conventions of transformers 5 that no library has seen: gated convolutions between attention with
scaled keys, and a head over tied embeddings."""

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_toy import ToyConfig  # noqa: TID252  (the way of remote code)


class ToyMysteryLayer(DynamicLayer):
    """A cache layer of a kind that only this file knows."""

    _layer_type = "toy_mystery"


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ToyAttention(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer_idx, config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling, self.attention_dropout, self.is_causal = config.head_dim**-0.5, 0.0, True
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size)
        self.key_scale = nn.Parameter(torch.ones(config.num_key_value_heads, 1, 1))

    def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, *position_embeddings), rotate(key, *position_embeddings) * self.key_scale
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0)
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1))


class ToyConv(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.layer_idx, self.kernel = layer_idx, config.conv_kernel
        self.in_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.conv = nn.Conv1d(config.hidden_size, config.hidden_size, config.conv_kernel, groups=config.hidden_size)

    def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values):
        values, gate = self.in_proj(hidden_states).chunk(2, dim=-1)
        columns = values.transpose(1, 2)
        if past_key_values is not None:
            columns = past_key_values.update_conv_state(columns, self.layer_idx, conv_kernel_size=self.kernel)
        columns = nn.functional.pad(columns, (self.kernel - 1, 0))
        return self.conv(columns)[:, :, -hidden_states.shape[1] :].transpose(1, 2) * gate.sigmoid()


class ToyLayer(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        is_conv = config.layer_types[layer_idx] == "conv"
        self.norm = nn.RMSNorm(config.hidden_size)
        self.mixer = (ToyConv if is_conv else ToyAttention)(config, layer_idx)

    def forward(self, hidden_states, **kwargs):
        return hidden_states + self.mixer(self.norm(hidden_states), **kwargs)


class ToyForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = ToyConfig
    _supports_attention_backend = True
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ToyLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def _rotary(self, position_ids):
        exponents = torch.arange(0, self.config.head_dim, 2, device=position_ids.device).float() / self.config.head_dim
        angles = position_ids[..., None].float() * self.config.rope_theta**-exponents
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos(), angles.sin()

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, logits_to_keep=0,
        **kwargs,
    ):  # fmt: skip
        hidden_states = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(input_ids.shape[1], device=input_ids.device) + seen)[None]
        given = {
            "config": self.config,
            "inputs_embeds": hidden_states,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
        }
        masks = {
            "full_attention": create_causal_mask(**given),
            "sliding_attention": create_sliding_window_causal_mask(**given),
        }
        rotary = self._rotary(position_ids)
        for index, layer in enumerate(self.layers):
            hidden_states = layer(
                hidden_states,
                position_embeddings=rotary,
                attention_mask=masks.get(self.config.layer_types[index]),
                past_key_values=past_key_values,
            )
        keep = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
        logits = self.lm_head(self.norm(hidden_states)[:, keep])
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)
