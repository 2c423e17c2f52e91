"""Names of upstream's library that are something else here, and what does it."""

from __future__ import annotations

from collections.abc import Callable

from QEfficient.errors import MovedName

_LOWERING = (
    "models are not rewritten class by class here: QEfficient.transform() replaces attention, masks and cache through "
    "the hooks that transformers has for them"
)
_GRAPHS = "a model's export() makes the graph with its operators, clips constants to fp16 and splits files"
_QUANTIZERS = "from_pretrained() reads quantized checkpoints by itself; see docs/source/quantization.md"
_COMPARE = "a model's verify() compares the package with Hugging Face, token by token"
_DIFFUSION = (
    "diffusion pipelines (Flux, Wan) are not here yet; from_pretrained() of QEFFAutoModel compiles their text encoders"
)
_TRAINING = "'qefficient finetune' trains, and its --config reads upstream's YAML; see docs/source/finetune.md"
_GRAPH_FOLDER = "a model's export() takes its graph from the store if it is there, and returns its path"

MODULES = {
    "QEfficient.base.onnx_transforms": _GRAPHS,
    "QEfficient.base.pytorch_transforms": _LOWERING,
    "QEfficient.blocking": "attention is not in blocks here; compile() takes upstream's qaic_config and says so",
    "QEfficient.compile.mdp_generator": (
        "compile() writes the partition file from num_devices and mdp_num_partitions, or takes one as "
        "mdp_load_partition_config"
    ),
    "QEfficient.customop": _GRAPHS,
    "QEfficient.diffusers": _DIFFUSION,
    "QEfficient.exporter.export_utils": _GRAPHS,
    "QEfficient.exporter.weight_free": (
        "from_pretrained() reads no weights before an export, which streams them; there is no spec file of them yet"
    ),
    "QEfficient.finetune.configs": _TRAINING,
    "QEfficient.finetune.dataset": _TRAINING,
    "QEfficient.finetune.eval": _TRAINING,
    "QEfficient.finetune.experimental": _TRAINING,
    "QEfficient.finetune.utils": _TRAINING,
    "QEfficient.generation.embedding_handler": "use QEFFAutoModelForImageTextToText.generate(images=..., prompts=...)",
    "QEfficient.generation.vlm_generation": "use QEFFAutoModelForImageTextToText.generate(images=..., prompts=...)",
    "QEfficient.proxy": "graphs keep their embedding and head here; inspect and verify() look inside a model",
    "QEfficient.transformers.cache_utils": _LOWERING,
    "QEfficient.transformers.embeddings": "use QEFFAutoModel.from_pretrained(pooling=...)",
    "QEfficient.transformers.modeling_attn_mask_utils": _LOWERING,
    "QEfficient.transformers.modeling_utils": _LOWERING,
    "QEfficient.transformers.models": _LOWERING,
    "QEfficient.transformers.post_processing": "use QEFFAutoModelForCausalLM.compile(num_speculative_tokens=...)",
    "QEfficient.transformers.quantizers.quant_transforms": _QUANTIZERS,
    "QEfficient.transformers.quantizers.quantizer_awq": _QUANTIZERS,
    "QEfficient.transformers.quantizers.quantizer_compressed_tensors": _QUANTIZERS,
    "QEfficient.transformers.quantizers.quantizer_gptq": _QUANTIZERS,
    "QEfficient.transformers.quantizers.quantizer_mxfp4": _QUANTIZERS,
    "QEfficient.transformers.sampler": "the host samples: generate(do_sample=True, temperature=..., top_k=...)",
    "QEfficient.transformers.spd": "use QEFFAutoModelForCausalLM.compile(num_speculative_tokens=...)",
    "QEfficient.utils.check_ccl_specializations": (
        "compile() takes comp_ctx_lengths_prefill and comp_ctx_lengths_decode, or qaic_config={'ccl_enabled': True}"
    ),
    "QEfficient.utils.export_utils": _GRAPHS,
    "QEfficient.utils.generate_inputs": f"{_COMPARE}; generate() takes token ids, texts and a tokenizer's output",
    "QEfficient.utils.hash_utils": "a model's package_ingredients() says everything that decides a package",
    "QEfficient.utils.run_utils": _COMPARE,
    "QEfficient.utils.sampler_utils": "the host samples: generate(do_sample=True, temperature=..., top_k=...)",
    "QEfficient.utils.spd_utils": "use QEFFAutoModelForCausalLM.compile(num_speculative_tokens=...)",
    "QEfficient.utils.test_utils": _COMPARE,
    "QEfficient.utils.torch_patches": _GRAPHS,
}
"""Modules, with those inside of them, of which this library has no name."""

_SHAPES = (
    "'qefficient inspect' shows the shapes of a model's state, and the package's manifest.json those of its graphs"
)
NAMES = {
    "QEfficient": {
        "QEFFFluxPipeline": _DIFFUSION,
        "QEFFWanPipeline": _DIFFUSION,
        "QEFFWanImageToVideoPipeline": _DIFFUSION,
    },
    "QEfficient.compile.compile_helper": {
        "compile_kv_model_on_cloud_ai_100": "use QEfficient.compile()",
        "create_and_dump_specializations": "compile(dry_run=True) writes every file that the compiler reads",
        "get_compilation_batch_size": "QEfficient.generation.text_generation_inference has get_compilation_dims()",
    },
    "QEfficient.generation.text_generation_inference": {
        "QEffTextGenerationBase": "use TextGeneration, or QAICInferenceSession to run each step yourself",
        "write_io_files": "generate(write_io=True) writes the buffers of a run",
    },
    "QEfficient.utils.constants": {
        "QnnConstants": "compile(enable_qnn=True, qnn_config=...) takes settings; see docs/source/cloud_ai_100.md",
    },
    "QEfficient.utils": {
        "dump_qconfig": "every package has its options and versions in manifest.json",
        "get_num_layers_vlm": _SHAPES,
        "get_onnx_dir_name": _GRAPH_FOLDER,
        "get_padding_shape_vlm": _SHAPES,
        "get_sliding_window_layers": _SHAPES,
        "get_sliding_window_shapes": _SHAPES,
        "make_serializable": "QEfficient.store.digests.json_safe() does it",
        "onnx_exists": _GRAPH_FOLDER,
        "replace_transformers_quantizers": _QUANTIZERS,
        "undo_transformers_quantizers": _QUANTIZERS,
    },
}
"""Names in modules that this library has, too."""


def moved_module(name: str) -> str | None:
    """What does the work of a module of upstream, or of one that it is in; None: it is none."""
    inside = [module for module in MODULES if f"{name}.".startswith(f"{module}.")]
    return MODULES[inside[0]] if inside else None


def names_of(module: str, advice: str | None = None) -> Callable[[str], object]:
    """A module's ``__getattr__``.

    Args:
        module: its name.
        advice: where all of its names are; None: where those of :data:`NAMES` are.
    """

    def missing(name: str) -> object:
        where = advice if advice is not None and not name.startswith("__") else NAMES.get(module, {}).get(name)
        if where is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise MovedName(f"{module}.{name} of upstream is not here: {where}.", name=module)

    return missing
