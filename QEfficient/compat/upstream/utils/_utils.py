"""The helpers of ``QEfficient.utils`` under the path where upstream defines them."""

from QEfficient.compat.moved import names_of
from QEfficient.compat.upstream.utils import (
    check_and_assign_cache_dir,
    get_num_layers_from_config,
    get_padding_shape_from_config,
    get_qpc_dir_path,
    hf_download,
    load_hf_processor,
    load_hf_tokenizer,
    login_and_download_hf_lm,
    padding_check_and_fix,
    qpc_exists,
)

__all__ = [
    "check_and_assign_cache_dir",
    "get_num_layers_from_config",
    "get_padding_shape_from_config",
    "get_qpc_dir_path",
    "hf_download",
    "load_hf_processor",
    "load_hf_tokenizer",
    "login_and_download_hf_lm",
    "padding_check_and_fix",
    "qpc_exists",
]

__getattr__ = names_of("QEfficient.utils")
