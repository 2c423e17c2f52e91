"""A config in the conventions of transformers 5: what a card's own Python files look like."""

from transformers import PreTrainedConfig


class ToyConfig(PreTrainedConfig):
    model_type = "toy_of_the_tests"

    vocab_size: int = 320
    hidden_size: int = 48
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 20
    conv_kernel: int = 3
    sliding_window: int = 16
    max_position_embeddings: int = 512
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs):
        if self.layer_types is None:
            self.layer_types = ["conv", "full_attention", "conv", "sliding_attention"]
        super().__post_init__(**kwargs)
