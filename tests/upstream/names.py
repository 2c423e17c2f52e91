"""The names that scripts import from upstream's library."""

from __future__ import annotations

from upstream.usage import answers, works

PATHS = {
    "QEfficient": """QEFFAutoModel QEFFAutoModelForCausalLM QEFFAutoModelForCTC QEFFAutoModelForImageTextToText
        QEFFAutoModelForSequenceClassification QEFFAutoModelForSpeechSeq2Seq QEffAutoPeftModelForCausalLM
        QEFFCommonLoader transform export compile cloud_ai_100_exec_kv""",
    "QEfficient.transformers.models.modeling_auto": """QEFFAutoModel QEFFAutoModelForCausalLM QEFFAutoModelForCTC
        QEFFAutoModelForImageTextToText QEFFAutoModelForSequenceClassification QEFFAutoModelForSpeechSeq2Seq""",
    "QEfficient.transformers.transform": "transform",
    "QEfficient.peft": "QEffAutoPeftModelForCausalLM",
    "QEfficient.peft.auto": "QEffAutoPeftModelForCausalLM",
    "QEfficient.peft.lora": "QEffAutoLoraModelForCausalLM",
    "QEfficient.peft.lora.auto": "QEffAutoLoraModelForCausalLM",
    "QEfficient.base": "QEFFAutoModel QEFFAutoModelForCausalLM QEFFAutoModelForImageTextToText QEFFCommonLoader",
    "QEfficient.base.common": "QEFFCommonLoader",
    "QEfficient.base.modeling_qeff": "QEFFBaseModel",
    "QEfficient.exporter.export_hf_to_cloud_ai_100": "qualcomm_efficient_converter",
    "QEfficient.compile.compile_helper": "compile",
    "QEfficient.generation.cloud_infer": "QAICInferenceSession",
    "QEfficient.generation.text_generation_inference": """CloudAI100ExecInfo CloudAI100ExecInfoNew PerfMetrics
        TextGeneration cloud_ai_100_exec_kv check_batch_size_and_num_prompts fix_prompts get_compilation_dims
        get_input_prompts read_prompts_txt_file""",
    "QEfficient.utils": """check_and_assign_cache_dir get_num_layers_from_config get_padding_shape_from_config
        get_qpc_dir_path hf_download load_hf_processor load_hf_tokenizer login_and_download_hf_lm
        padding_check_and_fix qpc_exists""",
    "QEfficient.utils._utils": "load_hf_tokenizer padding_check_and_fix",
    "QEfficient.utils.cache": "QEFF_HOME",
    "QEfficient.utils.constants": "Constants DEFAULT_AIC_HW_VERSION DEFAULT_AIC_NUM_CORES QEFF_MODELS_DIR",
    "QEfficient.utils.device_utils": "get_available_device_id",
    "QEfficient.utils.logging_utils": "QEFFLogger logger",
    "QEfficient.cloud.infer": "main",
    "QEfficient.cloud.export": "main",
    "QEfficient.cloud.compile": "main",
    "QEfficient.cloud.execute": "main",
    "QEfficient.cloud.finetune": "main",
}
"""Modules and the names in them that scripts import."""

MOVED = {
    "QEfficient.QEffFluxPipeline": "diffus",
    "QEfficient.QEffWanPipeline": "diffus",
    "QEfficient.QEffWanImageToVideoPipeline": "diffus",
    "QEfficient.diffusers.pipelines.flux.pipeline_flux.QEffFluxPipeline": "diffus",
    "QEfficient.base.onnx_transforms.FP16ClipTransform": r"export\(\)",
    "QEfficient.base.onnx_transforms.SplitTensorsTransform": r"export\(\)",
    "QEfficient.base.pytorch_transforms.ModuleMappingTransform": r"transform\(\)",
    "QEfficient.transformers.models.pytorch_transforms.KVCacheTransform": r"transform\(\)",
    "QEfficient.transformers.models.pytorch_transforms.CustomOpsTransform": r"transform\(\)",
    "QEfficient.transformers.models.llama.modeling_llama.QEffLlamaDecoderLayer": r"transform\(\)",
    "QEfficient.utils.constants.QnnConstants": "qnn_config",
    "QEfficient.transformers.cache_utils.QEffDynamicCache": r"transform\(\)",
    "QEfficient.transformers.quantizers.quantizer_awq.QEffAwqConfig": r"from_pretrained\(\)",
    "QEfficient.customop.CtxScatterFunc": r"export\(\)",
    "QEfficient.generation.text_generation_inference.QEffTextGenerationBase": "QAICInferenceSession",
    "QEfficient.generation.text_generation_inference.write_io_files": "write_io",
    "QEfficient.generation.vlm_generation.VisionLanguageGeneration": "QEFFAutoModelForImageTextToText",
    "QEfficient.compile.compile_helper.create_and_dump_specializations": "dry_run",
    "QEfficient.compile.mdp_generator.generate_disagg_mdp_partition_config": "mdp_num_partitions",
    "QEfficient.exporter.weight_free.load_weight_free_ort_inputs": "from_pretrained",
    "QEfficient.utils.run_utils.ApiRunner": r"verify\(\)",
    "QEfficient.utils.generate_inputs.InputHandler": r"verify\(\)",
    "QEfficient.utils.hash_utils.hash_dict_params": r"package_ingredients\(\)",
    "QEfficient.utils.check_ccl_specializations.process_ccl_specializations": "comp_ctx_lengths_prefill",
    "QEfficient.utils.sampler_utils.get_sampling_inputs_and_outputs": "do_sample",
    "QEfficient.utils.spd_utils.fix_prompts": "num_speculative_tokens",
    "QEfficient.utils.dump_qconfig": "manifest.json",
    "QEfficient.utils.onnx_exists": r"export\(\)",
    "QEfficient.utils.get_onnx_dir_name": r"export\(\)",
    "QEfficient.utils.get_padding_shape_vlm": "describe|inspect",
    "QEfficient.utils.replace_transformers_quantizers": r"from_pretrained\(\)",
    "QEfficient.finetune.configs.training.TrainConfig": "qefficient finetune",
    "QEfficient.finetune.experimental.core.config_manager.ConfigManager": "qefficient finetune",
}
"""Names that are something else here, and what the error about them names."""


def _import(path: str) -> str:
    module, _, name = path.rpartition(".")
    return f"from {module} import {name}"


NAMES = (
    *(works(f"{home}.{name}", f"from {home} import {name}") for home in PATHS for name in PATHS[home].split()),
    *(answers(path, _import(path), answer) for path, answer in MOVED.items()),
    works(
        "qualcomm_efficient_converter",
        "from QEfficient import qualcomm_efficient_converter, export",
        "assert export is qualcomm_efficient_converter",
    ),
)
