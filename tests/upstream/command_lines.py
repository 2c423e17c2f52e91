"""How scripts use upstream's commands, and their modules' functions."""

from __future__ import annotations

from upstream.usage import Usage, works

_INFER = "--prompt_len 8 --ctx_len 32 --num_cores 4 --generation_len 4 --prompt 'My name is'"


def _command(module: str, arguments: str, check: str = "", answer: str = "") -> Usage:
    return Usage(
        f"python -m QEfficient.cloud.{module} {arguments}", f"run_module({module!r}, f{arguments!r})", check, answer
    )


COMMANDS = (
    _command(
        "infer", "--model_name {card} --batch_size 1 " + _INFER + " --device_group [0] --mos 1 --aic_enable_depth_first"
    ),
    _command("infer", "--model-name {card} " + _INFER + " --mxfp6 --mxint8 --full_batch_size 2 --verbose"),
    _command("infer", "--model-name {card} " + _INFER + " --mxfp6-matmul --mxint8-kv-cache --trust_remote_code"),
    _command(
        "infer", "--model-name {card} " + _INFER + " --comp-ctx-lengths-prefill 16 --comp-ctx-lengths-decode 16,32"
    ),
    _command("infer", "--model-name {card} " + _INFER + " --ccl-enabled"),
    _command("infer", "--model-name {card} " + _INFER + " --use-onnx-subfunctions --dynamo --allow-mxint8-mdp-io"),
    _command("infer", "--model-name {card} " + _INFER + " --iteration 2 --automation"),
    _command("infer", "--model-name {card} " + _INFER + " --user_tiled --stats_level 70"),
    _command("infer", "--model-name {card} " + _INFER + " --user_tilde", answer="user-tiled|user_tiled"),
    _command(
        "infer",
        "--model-name {card} --local-model-dir {card} --hf-token '' " + _INFER.replace("'My name is'", "'My|name'"),
    ),
    _command(
        "infer",
        "--model-name {card} --prompts_txt_file_path {prompts_file} " + _INFER.partition(" --prompt ")[0],
    ),
    _command("export", "--model_name {card} --full_batch_size 2"),
    _command("export", "--model_name {card} --mxint8-kv-cache True"),
    _command(
        "compile",
        "--onnx_path {graph()} --qpc-path {tmp}/qpcs --batch_size 1 --prompt_len 8 --ctx_len 32 --mxfp6 --num_cores 4"
        " --device_group [0] --mos -1",
    ),
    _command(
        "execute",
        "--model_name {card} --qpc_path {qpc} --prompt 'Once upon a time in' --device_group [0] --generation_len 4",
    ),
    _command(
        "finetune",
        "--model_name {card} --device qaic:0 --use-peft --output_dir {tmp}/out --num_epochs 1",
        answer="'qaic'",
    ),
    works(
        "infer.main(...)",
        "from QEfficient.cloud.infer import main as infer\n"
        "infer(model_name=card, num_cores=4, prompt='My name is', local_model_dir=None, prompts_txt_file_path=None,"
        " aic_enable_depth_first=True, mos=1, hf_token=None, batch_size=1, prompt_len=8, ctx_len=32, generation_len=4,"
        " mxfp6=True, mxint8=True, full_batch_size=None, device_group=[0], cache_dir=None, enable_qnn=False)",
    ),
    works(
        "export.main(...)",
        "from QEfficient.cloud.export import main as export\n"
        "export(model_name=card, hf_token=None, local_model_dir=None, full_batch_size=None, cache_dir=None)",
    ),
    works(
        "compile.main(...)",
        "from QEfficient.cloud.compile import main as compile\n"
        "compile(onnx_path=graph(), qpc_path=f'{tmp}/qpcs', num_cores=4, device_group=[0], prompt_len=8, ctx_len=32)",
    ),
    works(
        "execute.main(...)",
        "from QEfficient.cloud.execute import main as execute\n"
        "execute(model_name=card, qpc_path=str(qpc), prompt='My name is', prompts_txt_file_path=None, generation_len=4,"
        " hf_token=None, device_group=[0])",
    ),
)
