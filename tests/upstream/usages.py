"""How scripts use upstream's library, one usage a row: what they write, and what has to come of it here.

Rows say facts about upstream's interface; their models are tiny. ``card`` is a checkpoint's folder, ``hf_model`` the
model in it, ``model`` a fresh wrapper of it that compiles with an SDK that writes down what it is asked for,
``compiled`` a model whose package runs on the simulated card, and ``qpc`` that package.
"""

from __future__ import annotations

from upstream.command_lines import COMMANDS
from upstream.differences import DIFFERENCES
from upstream.names import NAMES
from upstream.usage import Usage, answers, works

_LOAD = "from QEfficient import QEFFAutoModelForCausalLM\n"


def _loads(arguments: str, check: str = "", says: str = "", answer: str = "") -> Usage:
    code = f"{_LOAD}model = QEFFAutoModelForCausalLM.from_pretrained(card, {arguments})"
    return Usage(f"from_pretrained({arguments})", code, check, answer, says)


_NO_EFFECT = "no effect"

LOADING = (
    _loads("num_hidden_layers=1", "assert model.config.num_hidden_layers == 1 and len(model.model.model.layers) == 1"),
    _loads("rms_norm_eps=0.5, use_cache=True", "assert model.config.rms_norm_eps == 0.5"),
    works(
        "from_pretrained(config=config)",
        "from transformers import AutoConfig\n"
        + _LOAD
        + "config = AutoConfig.from_pretrained(card)\nconfig.num_hidden_layers = 1\n"
        "model = QEFFAutoModelForCausalLM.from_pretrained(card, config=config)",
        "assert len(model.model.model.layers) == 1",
    ),
    _loads("continuous_batching=True", "assert model.continuous_batching"),
    _loads("attn_implementation='eager', low_cpu_mem_usage=False", says=f"attn_implementation: {_NO_EFFECT}"),
    _loads("full_batch_size=4", says="full_batch_size.*compile"),
    _loads("kv_offload=True"),
    _loads("torch_dtype='float32'"),
    _loads("dtype='auto', revision='main', token=None, trust_remote_code=False"),
    _loads("max_seq_len_cached=64", says=f"max_seq_len_cached: {_NO_EFFECT}"),
    _loads("enable_proxy=True", says=f"enable_proxy: {_NO_EFFECT}"),
    _loads("enable_proxy=False, layerwise=False, weight_free=False, code_revision=None, device_map=None"),
    _loads("weight_free=True", says=f"weight_free: {_NO_EFFECT}"),
    _loads("layerwise=True", says=f"layerwise: {_NO_EFFECT}"),
    _loads("qaic_config=None"),
    _loads("qaic_config={'speculative_model_type': 'target'}"),
    _loads("qaic_config={'speculative_model_type': 'turbo'}", answer="num_speculative_tokens"),
    _loads("qaic_config={'ccl_enabled': True}"),
    _loads("qaic_config={'comp_ctx_lengths_prefill': [16], 'comp_ctx_lengths_decode': [16, 32], 'ctx_len': 32}"),
    _loads("qaic_config={'enable_blocking': True, 'blocking_mode': 'hqkv', 'num_kv_blocks': 2}", says=_NO_EFFECT),
    _loads("qaic_config={'include_sampler': False, 'return_pdfs': False, 'max_top_k_ids': 512}"),
    _loads("qaic_config={'include_sampler': True}", answer="do_sample"),
    _loads("qaic_config={'replicate_kv_heads': True}", says=_NO_EFFECT),
    _loads("qaic_config={'ccl_enable': True}", answer="ccl_enabled"),
    _loads("num_hiden_layers=1", answer="num_hidden_layers"),
    works(
        "QEFFCommonLoader.from_pretrained(...)",
        "from QEfficient.base.common import QEFFCommonLoader\n"
        "model = QEFFCommonLoader.from_pretrained(pretrained_model_name_or_path=card, hf_token=None, cache_dir=None,"
        " local_model_dir=None, full_batch_size=2)",
        "assert model.continuous_batching",
    ),
    works(
        "QEFFAutoModelForCausalLM(hf_model, qaic_config=...)",
        _LOAD + "model = QEFFAutoModelForCausalLM(hf_model, continuous_batching=True, qaic_config=None,"
        " max_seq_len_cached=None)",
    ),
    works(
        "QEFFAutoModelForCausalLM.transform(hf_model)",
        "from QEfficient import QEFFAutoModelForCausalLM, transform\nmodel = transform(hf_model, form_factor='cloud')",
    ),
)

_SIZES = "prefill_seq_len=8, ctx_len=32, num_cores=4"


def _compiles(arguments: str, check: str = "", says: str = "", answer: str = "", sizes: str = _SIZES) -> Usage:
    both = ", ".join(filter(None, (sizes, arguments)))
    return Usage(f"compile({arguments or sizes})", f"path = model.compile({both})", check, answer, says)


COMPILING = (
    _compiles("", "assert '-aic-num-cores=4' in argv()"),
    _compiles("onnx_path=None, compile_dir=None"),
    works(
        "compile(onnx_path=export())",
        f"path = model.compile(onnx_path=model.export(), {_SIZES})",
        "assert f'-m={model.onnx_path}' in argv()",
    ),
    _compiles("onnx_path='elsewhere.onnx'", answer=r"export\(\)"),
    _compiles("mxfp6_matmul=True, mxint8_kv_cache=True", "assert '-mxfp6-matmul' in argv()"),
    _compiles("mxfp6=True, device_group=[0, 1]", "assert '-mxfp6-matmul' in argv()\nassert devices() == 2"),
    _compiles("aic_enable_depth_first=True, mos=1", "assert {'-mos=1', '-aic-enable-depth-first'} <= {*argv()}"),
    _compiles(
        "mos=-1",
        "assert not [each for each in argv() if each.startswith('-mos')]",
        sizes="prefill_seq_len=8, ctx_len=32, num_cores=5",
    ),
    _compiles("num_devices=2, mdp_ts_num_devices=2", "assert devices() == 2"),
    _compiles("mdp_ts_num_devices=2", "assert devices() == 2"),
    _compiles("mdp_num_partitions=2, num_devices=2, mdp_strategy='onnx'", "assert devices() == 2"),
    _compiles("mdp_num_partitions=2, num_devices=2, mdp_strategy='intersection'", answer="mdp_load_partition_config"),
    _compiles("full_batch_size=2", "assert symbols(1)['batch_size'] == '2'"),
    _compiles("full_batch_size=2, kv_cache_batch_size=4", "assert symbols(1)['full_batch_size'] == '4'"),
    _compiles("num_speculative_tokens=3", "assert symbols(1)['seq_len'] == '4'"),
    _compiles("num_speculative_tokens=None, batch_size=2"),
    _compiles("num_speculative_tokens=0", "assert 'num_logits_to_keep' not in symbols(1)"),
    _compiles("num_devices=0, artifacts=False, stats_level=70", "assert '-stats-level=70' in argv()"),
    _compiles("artifacts=True", answer="dry_run"),
    _compiles(
        "num_speculative_tokens=[0, 3]",
        "assert [symbols(number)['num_logits_to_keep'] for number in (1, 2)] == ['1', '4']",
    ),
    _compiles("prefill_only=True", "assert len(shapes()) == 1"),
    _compiles("prefill_only=False", "assert symbols(0)['seq_len'] == '1'"),
    _compiles("prefill_only=None, enable_chunking=False, retain_full_kv=None, offload_pt_weights=True"),
    _compiles("prefill_only=True, enable_chunking=True", says=f"enable_chunking: {_NO_EFFECT}"),
    _compiles("retain_full_kv=True", says=f"retain_full_kv: {_NO_EFFECT}"),
    _compiles("moe_prefill_packed_chunk_size=256, layerwise=False, layerwise_window_size=1"),
    _compiles("dynamo=True, use_onnx_subfunctions=True", "assert '-sub-functions' in argv()", says="dynamo"),
    _compiles("comp_ctx_lengths_prefill=[16], comp_ctx_lengths_decode=[16, 32]", "assert len(shapes()) == 4"),
    _compiles("comp_ctx_lengths_decode='[16, 32]'", "assert len(shapes()) == 3"),
    _compiles("user_tiled=True, split_retained_state_io=True", "assert '-user-tiled' in argv()"),
    _compiles("aic_num_of_activations=1", answer="compiler_options"),
    _compiles("mxfp6_matmull=True", answer="mxfp6_matmul"),
    _compiles("mxfp6_matmul='false'", answer="True or False"),
    _compiles("prefill_only='yes'", answer="True or False"),
    _compiles("aic_enable_depth_first=1", answer="True or False"),
    _compiles("allow_mxint8_mdp_io=True, aic_hw_version='ai100'", "assert '-aic-hw-version=ai100' in argv()"),
    _compiles("compile_only=True", says=f"compile_only: {_NO_EFFECT}"),
    _compiles("qaic_config=None, kv_cache_prefix=None"),
    _compiles("kv_cache_prefix='prefill'", answer="past_key.i"),
    _compiles("skip_vision=True", answer="lang_qpc_path"),
    _compiles("height=354, width=536", answer="img_size"),
    _compiles("specializations=[{'batch_size': '1', 'seq_len': '8', 'ctx_len': '32'}]", answer="prefill_seq_len"),
    works(
        "ccl_enabled",
        _LOAD + "model = QEFFAutoModelForCausalLM.from_pretrained(card, qaic_config={'ccl_enabled': True})\n"
        "path = model.compile(prefill_seq_len=8, ctx_len=256, num_cores=4)",
        "assert symbols(-1)['comp_ctx_lengths'] == '256'",
    ),
    works(
        "num_speculative_tokens=0 of a target",
        _LOAD
        + "model = QEFFAutoModelForCausalLM.from_pretrained(card, qaic_config={'speculative_model_type': 'target'})\n"
        "path = model.compile(prefill_seq_len=8, ctx_len=32, num_cores=4, num_speculative_tokens=0)",
        "assert symbols(1)['num_logits_to_keep'] == '1'",
    ),
    works(
        "lists in qaic_config",
        _LOAD
        + "model = QEFFAutoModelForCausalLM.from_pretrained(card, qaic_config={'comp_ctx_lengths_decode': [16]})\n"
        "path = model.compile(prefill_seq_len=8, ctx_len=32, num_cores=6)",
        "assert [symbols(number)['comp_ctx_lengths'] for number in (-2, -1)] == ['16', '32']",
    ),
    works(
        "export(...)",
        "path = model.export(prefill_only=False, prefill_seq_len=None, num_cores=16, moe_prefill_packed_chunk_size=256,"
        " layerwise=False, layerwise_window_size=1, kv_cache_prefix=None, dynamo=False, use_onnx_subfunctions=False,"
        " offload_pt_weights=True)",
        "from pathlib import Path\nassert Path(path).is_file()",
    ),
    works(
        "QEfficient.export(model_name=...)",
        "import QEfficient\nbase_path, onnx_path = QEfficient.export(model_name=card, model_kv=model,"
        " form_factor='cloud', full_batch_size=None)",
    ),
    works(
        "QEfficient.compile(onnx_path, qpc_path, ...)",
        "import QEfficient\n_, onnx_path = QEfficient.export(model_name=card)\n"
        "path = QEfficient.compile(onnx_path=onnx_path, qpc_path=tmp / 'qpcs', num_cores=4, device_group=[0],"
        " aic_enable_depth_first=False, mos=-1, batch_size=1, prompt_len=8, ctx_len=32, mxfp6=True, mxint8=False,"
        " custom_io_file_path=None, full_batch_size=None, allow_mxint8_mdp_io=False, enable_qnn=False)",
        "from pathlib import Path\nassert '-mxfp6-matmul' in argv()\nassert (Path(path) / 'programqpc.bin').is_file()",
    ),
    works(
        "QEfficient.compile(onnx_path, qpc_path, num_cores)",
        "import QEfficient\n_, onnx_path = QEfficient.export(card)\n"
        "path = QEfficient.compile(str(onnx_path), str(tmp / 'qpcs'), 7, [0])",
        "assert '-mxfp6-matmul' in argv()",
    ),
    works(
        "programqpc.bin in what compile returns",
        f"path = model.compile({_SIZES})",
        "from pathlib import Path\n"
        "assert (Path(path) / 'programqpc.bin').is_file() and (Path(path) / 'qpc' / 'programqpc.bin').is_file()",
    ),
)


def _generates(arguments: str, check: str = "", says: str = "", answer: str = "") -> Usage:
    return Usage(f"generate({arguments})", f"info = compiled.generate({arguments})", check, answer, says)


_LEN = "generation_len=4"

GENERATING = (
    _generates(f"tokenizer, ['My name is'], {_LEN}", "assert len(info.generated_texts) == 1"),
    _generates(f"tokenizer=tokenizer, prompts=['My name is'], {_LEN}", "assert info.generated_texts == first"),
    _generates(f"tokenizer, prompts=['My name is'], {_LEN}", "assert info.generated_texts == first"),
    _generates(f"prompts=['My name is'], tokenizer=tokenizer, device_id=[0], runtime_ai100=True, {_LEN}"),
    _generates(f"prompts=['My name is'], {_LEN}", "assert info.generated_texts == first"),
    _generates(f"tokenizer=tokenizer, prompts=['My name is'], device_ids=None, artifacts=False, {_LEN}"),
    _generates(f"tokenizer=tokenizer, prompts=['My name is'], device_ids=[0], {_LEN}"),
    _generates(f"tokenizer, ['My name is'], profiling_type='stats', {_LEN}", answer="aic_profiling_type"),
    _generates(
        f"tokenizer=tokenizer, prompts=None, prompts_txt_file_path=prompts_file, {_LEN}",
        "assert len(info.generated_texts) == 2",
    ),
    _generates(f"tokenizer, ['My name is'], automation=True, {_LEN}", "assert len(info.generated_ids[0]) == 4"),
    _generates(f"tokenizer, ['My name is'], iteration=2, {_LEN}", "assert info.generated_texts == first"),
    _generates(f"tokenizer, ['My name is'], write_io=False, stream=False, {_LEN}"),
    _generates(f"tokenizer, ['My name is'], enable_debug_logs=False, is_tlm=False, {_LEN}"),
    _generates(
        f"tokenizer, ['My name is'], include_sampler=False, return_pdfs=False, sampling_params=None, {_LEN}",
    ),
    _generates(f"tokenizer, ['My name is'], include_sampler=True, {_LEN}", answer="do_sample"),
    _generates(f"tokenizer, ['My name is'], sampling_params={{'temperatures': [[1.0]]}}, {_LEN}", answer="temperature"),
    _generates(f"tokenizer, ['My name is'], write_io=True, {_LEN}", "assert io_files()"),
    _generates(f"tokenizer, ['My name is'], runtime_ai100=False, {_LEN}", answer="target='cpu'"),
    works(
        "generate(streamer=TextStreamer)",
        "from transformers import TextStreamer\n"
        f"info = compiled.generate(tokenizer, ['My name is'], streamer=TextStreamer(tokenizer), {_LEN})",
        "assert info.generated_texts == first",
    ),
    works(
        "perf_metrics",
        f"info = compiled.generate(tokenizer, ['My name is'], {_LEN})\nmetrics = info.perf_metrics\n"
        "values = metrics.prefill_time, metrics.decode_perf, metrics.total_perf, metrics.total_time",
        "assert all(value > 0 for value in values)",
    ),
    works(
        "cloud_ai_100_exec_kv(...)",
        "import QEfficient\ninfo = QEfficient.cloud_ai_100_exec_kv(tokenizer=tokenizer, qpc_path=qpc,"
        " prompt=['My name is'], device_id=[0], generation_len=4, stream=False, automation=False, iteration=1,"
        " write_io_dir=None, enable_debug_logs=False, is_tlm=False, comp_ctx_lengths_prefill=None,"
        " comp_ctx_lengths_decode=None, prompts_txt_file_path=None, prompt_to_lora_id_mapping=None,"
        " include_sampler=False, return_pdfs=False, include_guided_decoding=False, sampling_params=None)",
        "assert info.generated_texts == first",
    ),
    works(
        "cloud_ai_100_exec_kv('a|b')",
        "from QEfficient.generation.text_generation_inference import cloud_ai_100_exec_kv\n"
        "info = cloud_ai_100_exec_kv(tokenizer, qpc, 'My name is|One, two,', None, [0], 4)",
        "assert len(info.generated_texts) == 2",
    ),
    works(
        "TextGeneration",
        "from QEfficient.generation.text_generation_inference import TextGeneration\n"
        "text = TextGeneration(tokenizer=tokenizer, qpc_path=qpc, device_id=[0], ctx_len=32)\n"
        "info = text.generate(prompt=['My name is'], generation_len=4, stream=False)",
        "assert info.generated_texts == first\nassert text.perf_metrics.total_time > 0",
    ),
    works(
        "get_compilation_dims",
        "from QEfficient.generation.text_generation_inference import get_compilation_dims\n"
        "batch_size, ctx_len, fbs = get_compilation_dims(qpc)",
        "assert (batch_size, ctx_len, fbs) == (1, 32, None)",
    ),
    works(
        "QAICInferenceSession(compile())",
        "import numpy as np\nfrom QEfficient.generation.cloud_infer import QAICInferenceSession\n"
        "session = QAICInferenceSession(qpc, device_ids=[0], enable_debug_logs=False)\n"
        "session.skip_buffers([name for name in session.input_names if name.startswith('past_')])\n"
        "session.skip_buffers([name for name in session.output_names if name.endswith('_RetainedState')])\n"
        "session.set_buffers({'logits': np.zeros((1, 1, 320), np.float32)})\n"
        "ids, positions = np.zeros((1, 8), np.int64), np.full((1, 8), -1)\npositions[0, 0] = 0\n"
        "logits = session.run({'input_ids': ids, 'position_ids': positions})['logits']\nsession.deactivate()",
        "session.close()\nassert logits.shape == (1, 1, 320)",
    ),
    answers(
        "QAICInferenceSession(kv_dma_share=True)",
        "from QEfficient.generation.cloud_infer import QAICInferenceSession\n"
        "QAICInferenceSession(qpc, full_batch_size=1, stages=1, cluster_id='prefill', kv_dma_share=True)",
        "reset_buffers",
    ),
    works(
        "a buffer that the program does not have",
        "import numpy as np\nfrom QEfficient.generation.cloud_infer import QAICInferenceSession\n"
        "session = QAICInferenceSession(qpc, [0])\nsession.set_buffers({'batch_index': np.zeros((1, 1), np.int64)})",
        "session.close()",
        says="batch_index",
    ),
)

UTILITIES = (
    works(
        "load_hf_tokenizer",
        "from QEfficient.utils import load_hf_tokenizer\n"
        "loaded = load_hf_tokenizer(pretrained_model_name_or_path=card, hf_token=None, padding_side='right')",
        "assert loaded('My name is')['input_ids'] == tokenizer('My name is')['input_ids']",
    ),
    works(
        "padding_check_and_fix",
        "from QEfficient.utils import padding_check_and_fix\ntokenizer.padding_side = 'left'\n"
        "padding_check_and_fix(tokenizer)",
        "assert tokenizer.padding_side == 'right'",
    ),
    works(
        "get_padding_shape_from_config",
        "from QEfficient.utils import get_padding_shape_from_config, get_num_layers_from_config\n"
        "shape = get_padding_shape_from_config(hf_model.config, batch_size=1, seq_len=32)",
        "assert list(shape) == [1, 2, 32, 16]\nassert get_num_layers_from_config(hf_model.config) == 2",
    ),
    works(
        "qpc_exists",
        "from QEfficient.utils import qpc_exists\nexists = qpc_exists(str(qpc))\nelsewhere = qpc_exists(str(tmp))",
        "assert exists and not elsewhere",
    ),
    works(
        "get_qpc_dir_path",
        "from QEfficient.utils import get_qpc_dir_path\n"
        "folder = get_qpc_dir_path(model_card_name='gpt2', num_cores=16, mos=1, batch_size=1, prompt_len=32,"
        " ctx_len=128, mxfp6=True, mxint8=True, device_group=[0], full_batch_size=None)",
        "assert 'gpt2' in str(folder)",
    ),
    works(
        "login_and_download_hf_lm of a folder",
        "from QEfficient.utils import login_and_download_hf_lm, hf_download\n"
        "folder = login_and_download_hf_lm(card, hf_token=None, cache_dir=None)",
        "assert str(folder) == card",
    ),
    works(
        "check_and_assign_cache_dir",
        "from QEfficient.utils import check_and_assign_cache_dir\n"
        "folder = check_and_assign_cache_dir(local_model_dir=None, cache_dir='hub')",
        "assert folder == 'hub'",
    ),
    works(
        "get_available_device_id",
        "from QEfficient.utils.device_utils import get_available_device_id\nids = get_available_device_id()",
        "assert ids == [0]",
    ),
    works(
        "read_prompts_txt_file",
        "from QEfficient.generation.text_generation_inference import read_prompts_txt_file, fix_prompts\n"
        "texts = read_prompts_txt_file(prompts_file)",
        "assert len(texts) == 2",
    ),
)

OTHERS = (
    works(
        "QEFFAutoModel",
        "from QEfficient import QEFFAutoModel\n"
        "encoder = QEFFAutoModel.from_pretrained(bert_card, pooling='mean')\n"
        "path = encoder.compile(num_cores=4, seq_len=[8, 16], batch_size=1)\n"
        "output = encoder.generate(tokenizer('My name is', return_tensors='pt'), device_ids=[0], write_io=False)",
        "assert output['output'].shape == (1, 64)",
    ),
    works(
        "QEFFAutoModel(seq_len='[8, 16]')",
        "from QEfficient import QEFFAutoModel\n"
        "encoder = QEFFAutoModel.from_pretrained(bert_card, add_pooling_layer=False)\n"
        "path = encoder.compile(num_cores=4, seq_len='[8, 16]')",
    ),
    works(
        "QEFFAutoModel without token_type_ids",
        "from QEfficient import QEFFAutoModel\n"
        "encoder = QEFFAutoModel.from_pretrained(bert_card)\nencoder.compile(num_cores=4, seq_len=8)\n"
        "inputs = {'input_ids': [[5, 6, 7]], 'attention_mask': [[1, 1, 1]]}\noutput = encoder.generate(inputs)",
        "assert output['output'].shape[-1] == 64",
    ),
    works(
        "an encoder's program without token_type_ids",
        "import numpy as np\nfrom QEfficient import QEFFAutoModel\n"
        "from QEfficient.generation.cloud_infer import QAICInferenceSession\n"
        "encoder = QEFFAutoModel.from_pretrained(bert_card)\npath = encoder.compile(num_cores=4, seq_len=8)\n"
        "session = QAICInferenceSession(path, [0])\n"
        "output = session.run({'input_ids': np.ones((1, 8), np.int64), 'attention_mask': np.ones((1, 8), np.int64)})",
        "session.close()\nassert output['output'].shape == (1, 8, 64)",
    ),
    answers(
        "a causal class on BERT",
        "from QEfficient import QEFFAutoModelForCausalLM\nQEFFAutoModelForCausalLM.from_pretrained(bert_card)",
        "QEFFAutoModel",
    ),
    answers(
        "a causal class on a BERT without a head",
        "from QEfficient import QEFFAutoModelForCausalLM\nQEFFAutoModelForCausalLM(bert)",
        "QEFFAutoModel",
    ),
    answers(
        "node_precision_info of another model",
        "info = tmp / 'npi.yaml'\ninfo.write_text('FP32NodeInstanceNames:\\n  - /model/nowhere\\n')\n"
        f"model.compile({_SIZES}, node_precision_info=str(info))",
        "nowhere",
    ),
)

VARIABLES = (
    works("QEFF_HOME", "path = compiled.qpc_path", "import os\nassert str(path).startswith(os.environ['QEFF_HOME'])"),
    works(
        "XDG_CACHE_HOME",
        "import os\nsetenv('QEFF_HOME', None)\nsetenv('XDG_CACHE_HOME', str(tmp))\n"
        "from QEfficient.utils.constants import QEFF_MODELS_DIR",
        "assert str(QEFF_MODELS_DIR).startswith(str(tmp))",
    ),
)

USAGES = {
    "names": NAMES,
    "loading": LOADING,
    "compiling": COMPILING,
    "generating": GENERATING,
    "utilities": UTILITIES,
    "commands": COMMANDS,
    "others": OTHERS,
    "variables": VARIABLES,
    "differences": DIFFERENCES,
}
