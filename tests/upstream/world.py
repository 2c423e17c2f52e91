"""What the usages of upstream's library run in: tiny checkpoints, an SDK that writes down its commands, a package on
the simulated card."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from compile.fake_sdk import WRITE_QPC, sdk_tree

_LOG = """
import json, pathlib, sys
files = {{flag.partition("=")[0]: flag.partition("=")[2] for flag in sys.argv[1:] if flag.endswith(".json")}}
texts = {{name: pathlib.Path(path).read_text() for name, path in files.items()}}
pathlib.Path({log!r}).write_text(json.dumps([sys.argv, texts]))
"""
SIZES = {"prefill_seq_len": 8, "ctx_len": 32, "num_cores": 4}


@dataclass(frozen=True)
class World:
    """Everything that usages share."""

    root: Path
    hf_model: Any
    bert: Any

    @classmethod
    def build(cls, root: Path) -> World:
        """Write the checkpoints and the SDK."""
        world = cls(root, tiny_models.causal_lm("llama"), tiny_models.encoder())
        for folder, model in ((world.card, world.hf_model), (world.bert_card, world.bert)):
            tiny_models.save(model, Path(folder))
            tiny_models.tiny_tokenizer().save_pretrained(folder)
        sdk_tree(root / "sdk", code=_LOG.format(log=str(root / "asked.json")) + WRITE_QPC)
        (root / "prompts.txt").write_text("My name is\nOne, two,\n")
        return world

    @property
    def card(self) -> str:
        return str(self.root / "tiny" / "Llama-2L")

    @property
    def bert_card(self) -> str:
        return str(self.root / "tiny" / "bert")

    def names(self, folder: Path, compiled: Any) -> dict[str, Any]:
        """What the code of a usage may name."""
        from QEfficient import QEFFAutoModelForCausalLM

        recorded = Recorded(self.root / "asked.json")
        return {
            "card": self.card,
            "bert_card": self.bert_card,
            "hf_model": self.hf_model,
            "bert": self.bert,
            "model": QEFFAutoModelForCausalLM(self.hf_model),
            "compiled": compiled.model,
            "first": compiled.texts,
            "qpc": compiled.model.qpc_path,
            "tokenizer": tiny_models.tiny_tokenizer(),
            "prompts_file": str(self.root / "prompts.txt"),
            "tmp": folder,
            **recorded.readers(),
        }


@dataclass(frozen=True)
class Compiled:
    """A model whose package runs on the simulated card, and the texts that it begins with."""

    model: Any
    texts: list[str]

    @classmethod
    def build(cls, world: World) -> Compiled:
        from QEfficient import QEFFAutoModelForCausalLM

        model = QEFFAutoModelForCausalLM.from_pretrained(world.card)
        model.compile(target="cloud-ai-100-sim", **SIZES)
        return cls(model, model.generate(["My name is"], generation_len=4).generated_texts)


@dataclass(frozen=True)
class Recorded:
    """What the compiler was last asked for."""

    log: Path

    def readers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("argv", "shapes", "symbols", "devices")}

    def argv(self) -> list[str]:
        arguments: list[str] = json.loads(self.log.read_text())[0]
        return arguments

    def _file(self, flag: str) -> Any:
        return json.loads(json.loads(self.log.read_text())[1][flag])

    def shapes(self) -> list[dict[str, Any]]:
        """The specializations."""
        entries: list[dict[str, Any]] = self._file("-network-specialization-config")["specializations"]
        return entries

    def symbols(self, number: int) -> dict[str, str]:
        """Those of one specialization."""
        values: dict[str, str] = self.shapes()[number]["symbols"]
        return values

    def devices(self) -> int:
        """Devices over all partitions."""
        return sum(len(each["devices"]) for each in self._file("-mdp-load-partition-config")["partitions"])


@dataclass
class CommandLine:
    """Runs ``python -m QEfficient.cloud.…`` in this process."""

    names: dict[str, Any]
    monkeypatch: pytest.MonkeyPatch
    ran: list[Any] = field(default_factory=list)

    def run_module(self, module: str, arguments: str) -> None:
        """Run a module with what a shell makes of ``arguments``."""
        command = import_module(f"QEfficient.cloud.{module}").command
        command.main(shlex.split(arguments), standalone_mode=False)

    def graph(self) -> str:
        """The path of a graph that was exported here."""
        return os.fspath(self.names["model"].export(prefill_seq_len=8, ctx_len=32))
