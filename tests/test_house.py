"""What holds for the package as a whole: importing it costs nothing, imports go downward, versions agree."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import QEfficient
from QEfficient.version import __version__

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.glob("QEfficient/**/*.py"))
}
IMPORT_S = 0.05

# Lowest first; a module imports from its own level and from those before it.
LEVELS = (
    ("errors", "version", "output", "progress", "forks", "interrupts", "machine", "telemetry", "no_effect"),
    (
        "options",
        "option_docs",
        "option_types",
        "generation_options",
        "qaic_config",
        "contract",
        "targets",
        "tasks",
        "generation_config",
    ),
    ("store",),
    ("transformers", "processing"),
    ("exporter",),
    ("simulator",),
    ("compile",),
    ("generation",),
    ("verify",),
    ("quantization", "finetune"),
    ("base",),
    ("transformers.models", "transformers.transform"),
    ("compat", "peft"),
    ("",),
    ("cloud",),
)
LIGHT = frozenset(
    {
        "",
        "errors",
        "version",
        "output",
        "progress",
        "forks",
        "interrupts",
        "machine",
        "no_effect",
        "telemetry",
        "options",
        "option_docs",
        "option_types",
        "targets",
        "tasks",
        "contract",
        "generation_config",
        "generation_options",
        "qaic_config",
        "store",
        "base",
        "compile",
        "generation",
        "compat.finder",
    }
)
"""Run where neither torch nor transformers is."""
HEAVY = {"torch", "transformers", "accelerate"}

PROBE = """
import json, os, sys, time, warnings
environment, filters, modules = dict(os.environ), list(warnings.filters), set(sys.modules)
began = time.process_time()
import QEfficient
seconds = time.process_time() - began
print(json.dumps({
    "seconds": seconds,
    "same environment": dict(os.environ) == environment,
    "same filters": warnings.filters == filters,
    "modules": sorted(set(sys.modules) - modules),
}))
"""


def run_python(code: str) -> str:
    """What a fresh process prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def probes() -> list[dict[str, Any]]:
    return [json.loads(run_python(PROBE)) for _ in range(3)]


def test_import_is_fast(probes: list[dict[str, Any]]) -> None:
    assert median(probe["seconds"] for probe in probes) <= IMPORT_S


def test_import_changes_nothing(probes: list[dict[str, Any]]) -> None:
    """A module of others that is not imported is not changed either."""
    for probe in probes:
        assert probe["same environment"]
        assert probe["same filters"]
        assert {name.partition(".")[0] for name in probe["modules"]} - set(sys.stdlib_module_names) == {"QEfficient"}


def test_asking_what_there_is_loads_nothing() -> None:
    code = "import sys, QEfficient as q; dir(q); hasattr(q, 'x'); hasattr(q, '__path__'); print(*sys.modules)"
    assert not HEAVY & set(run_python(code).split())


def test_opening_a_package_needs_neither_torch_nor_transformers() -> None:
    loaded = run_python("import sys; from QEfficient import from_package; print(*sys.modules)").split()
    assert not {*HEAVY, "onnx", "nncf", "openvino"} & set(loaded)
    assert "QEfficient.generation.package" in loaded


def test_names_are_sorted_and_importable() -> None:
    assert sorted(QEfficient.__all__) == QEfficient.__all__
    assert [name for name in QEfficient.__all__ if not hasattr(QEfficient, name)] == []
    assert set(QEfficient.__all__) <= set(dir(QEfficient))


def test_both_spellings_are_one_thing() -> None:
    names = [name for name in QEfficient.__all__ if name.startswith("QEFF")]
    assert names
    for name in names:
        assert getattr(QEfficient, name.replace("QEFF", "QEff")) is getattr(QEfficient, name)


@pytest.mark.parametrize("name", ["QEFFAutoModelForCausalML", "generate", "_private", "torch"])
def test_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(QEfficient, name)


def test_functions_stay_functions() -> None:
    """A folder of the package with the name of a public function must not take its place once it is imported."""
    for module in MODULES:
        if module.count(".") == 1:
            import_module(module)
    assert [name for name in ("compile", "export", "transform") if not callable(getattr(QEfficient, name))] == []


def test_version_is_the_newest_of_the_changelog() -> None:
    titles = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    numbered = [tuple(map(int, title.split("."))) for title in titles[1:]]
    assert titles[:2] == ["Unreleased", __version__]
    assert numbered == sorted(numbered, reverse=True)


def test_package_is_marked_as_typed() -> None:
    assert (ROOT / "QEfficient" / "py.typed").is_file()


def inside(module: str) -> str:
    """A module's name without the package's."""
    return module.removeprefix("QEfficient").removeprefix(".")


@cache
def level(module: str) -> int:
    """Of the longest entry of LEVELS that the module is in."""
    name = inside(module)
    entries = {entry: number for number, group in enumerate(LEVELS) for entry in group}
    fitting = [entry for entry in entries if name == entry or (entry and name.startswith(f"{entry}."))]
    assert fitting, f"{module} is on no level: add it to LEVELS"
    return entries[max(fitting, key=len)]


def imports(path: Path, *, when_imported: bool = False) -> Iterator[str]:
    """Names of the modules that a file imports; ``when_imported`` leaves out what its functions import."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if is_for_types or (when_imported and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in inner)
        pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward(module: str) -> None:
    ours = [name for name in imports(MODULES[module]) if name.partition(".")[0] == "QEfficient"]
    assert [name for name in ours if level(name) > level(module)] == []


def is_light(module: str) -> bool:
    """Whether a module of the package is in LIGHT, by itself or with those around it."""
    name = inside(module)
    return name in LIGHT or any(entry and name.startswith(f"{entry}.") for entry in LIGHT)


@pytest.mark.parametrize("module", [name for name in MODULES if is_light(name)])
def test_what_runs_a_package_imports_nothing_heavy(module: str) -> None:
    for name in imports(MODULES[module], when_imported=True):
        top = name.partition(".")[0]
        assert top not in HEAVY
        assert top != "QEfficient" or is_light(name)


def test_the_rest_does_not_know_the_room_for_compatibility() -> None:
    """Only the front does: the public names, and commands that are functions too."""
    users = {name for name, path in MODULES.items() if any(".compat" in each for each in imports(path))}
    outside = {name for name in users if not inside(name).startswith("compat")}
    assert {inside(name).partition(".")[0] for name in outside} <= {"", "cloud"}


def test_experimental_exporters_are_imported_in_two_modules() -> None:
    users = [
        module
        for module, path in MODULES.items()
        if any(name.startswith("transformers.exporters") for name in imports(path))
    ]
    assert sorted(users) == ["QEfficient.exporter.trace", "QEfficient.processing.precomputed"]


def test_architectures_are_not_told_apart_by_name() -> None:
    """Outside one table of quirks the code does not so much as read it, but to ask whether transformers has it, and to
    make the config that a GGUF file stands for. Keys of upstream's YAML for fine-tuning and of its qaic_config
    only look like it."""
    only_looks_like_it = re.compile('"model.model_type"|speculative_model_type')
    texts = {module: only_looks_like_it.sub("", path.read_text(encoding="utf-8")) for module, path in MODULES.items()}
    readers = [module for module, text in texts.items() if "model_type" in text]
    rooms = ("quirks", "checkpoint.files", "checkpoint.gguf_config")
    allowed = [f"QEfficient.transformers.{room}" for room in rooms]
    assert [module for module in readers if module not in allowed] == []


def text_without_encoding(path: Path) -> Iterator[str]:
    """Calls in a file that open text in the locale's encoding."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = ast.unparse(node.func)
        is_binary = any("b" in ast.unparse(argument) for argument in node.args[1:2])
        is_read = name.endswith(".read_text") and not node.args
        if is_read or name.endswith(".write_text") or (name == "open" and not is_binary):
            yield ast.unparse(node)


def test_text_files_are_opened_with_an_encoding() -> None:
    assert [call for path in MODULES.values() for call in text_without_encoding(path)] == []


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def distribution(requirement: str) -> str:
    """``onnx_ir>=1.1`` to ``onnx-ir``, and what is imported under another name to the package that has it."""
    requirement = {"yaml": "pyyaml", "google": "protobuf", "PIL": "pillow"}.get(requirement, requirement)
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_dependencies_are_ranges(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(line for extra in extras for line in extra)]
    assert [line for line in asked if ">=" not in line or "==" in line] == []


def test_what_is_imported_is_declared(project: dict[str, Any]) -> None:
    imported = {name.partition(".")[0] for path in MODULES.values() for name in imports(path)}
    foreign = {distribution(name) for name in imported - set(sys.stdlib_module_names) - {"QEfficient"}}
    extras = project["optional-dependencies"]
    optional = [line for extra in ("vision", "audio", "train") for line in extras[extra]]
    declared = {distribution(line) for line in [*project["dependencies"], *optional]}
    assert foreign - declared == set()


def test_constraints_have_exact_versions_of_what_the_commands_install(project: dict[str, Any]) -> None:
    pinned = {distribution(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = project["optional-dependencies"]
    asked = {distribution(line) for line in [*project["dependencies"], *extras["dev"], *extras["docs"]]}
    assert asked - pinned == set()


def test_no_file_has_a_path_of_a_machine() -> None:
    machine = re.compile(r"(?<![\w.$}>~])/(?:tmp|root|home|work|Users|mnt)/")
    with_paths = [f"{path}: {line}" for path in text_files() for line in lines(path) if machine.search(line)]
    assert with_paths == []


def text_files() -> list[Path]:
    """What is or would be in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def lines(path: Path) -> list[str]:
    """None of a file that is not text."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
