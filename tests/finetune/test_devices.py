"""Devices: what is not on this machine is said at the start, and what is asked for is what is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from QEfficient.errors import OptionError, TargetUnavailable
from QEfficient.finetune.devices import check_used, choose_device, choose_precision
from QEfficient.finetune.run import finetune
from QEfficient.finetune.settings import FinetuneOptions

for package in ("trl", "peft", "datasets"):
    pytest.importorskip(package)

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def torch_qaic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of this name, without what is in it."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "torch_qaic.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "torch_qaic", raising=False)
    return folder


@NO_GPU
@pytest.mark.parametrize(("device", "match"), [("cuda", "no GPU"), ("qaic", "needs torch_qaic")])
def test_devices_that_are_not_here(base: Path, tmp_path: Path, device: str, match: str) -> None:
    with pytest.raises(TargetUnavailable, match=match):
        finetune(base, dataset="data.jsonl", output_dir=tmp_path, device=device)


@pytest.mark.usefixtures("torch_qaic")
def test_a_card_that_cannot_be_used() -> None:
    with pytest.raises(TargetUnavailable, match=r"torch_qaic is installed, and no card can be used: .*qaic"):
        choose_device(FinetuneOptions(device="qaic"))


@pytest.mark.usefixtures("torch_qaic")
def test_cards_are_used_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TargetUnavailable, match="device='qaic' trains in one process"):
        choose_device(FinetuneOptions(device="qaic"))


def test_another_device_than_the_one_asked_for_is_an_error() -> None:
    check_used("cuda", torch.device("cuda", 1))
    with pytest.raises(TargetUnavailable, match="device='qaic': the Trainer would train on 'cpu' instead"):
        check_used("qaic", torch.device("cpu"))


def test_precisions_of_devices() -> None:
    assert choose_precision(FinetuneOptions(), "cpu") == "fp32"
    assert choose_precision(FinetuneOptions(precision="bf16"), "cpu") == "bf16"
    assert choose_precision(FinetuneOptions(precision="fp16"), "cuda") == "fp16"
    with pytest.raises(OptionError, match="needs a GPU"):
        choose_precision(FinetuneOptions(precision="fp16"), "cpu")


ON_QAIC = """
import sys
from pathlib import Path

import torch

torch.utils.rename_privateuse1_backend("qaic")  # the name of the device without its operators
from QEfficient.finetune import devices
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.finetune.trainer import arguments

devices.find_spec = lambda name: name
devices._start_qaic = lambda: None
print(arguments(FinetuneOptions(device="qaic"), Path(sys.argv[1]), has_validation=False).device)
"""


@pytest.mark.sweep
@NO_GPU
def test_the_trainer_takes_the_card(tmp_path: Path) -> None:
    """In a process of its own: torch keeps the name of a device to its end."""
    ended = subprocess.run([sys.executable, "-c", ON_QAIC, tmp_path], capture_output=True, text=True, check=False)
    assert (ended.stdout.strip(), ended.returncode) == ("qaic:0", 0), ended.stderr[-2000:]
