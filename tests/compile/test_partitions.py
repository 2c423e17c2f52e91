"""Files that spread a model over devices: text as upstream writes it, and stages that can run one after the other."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import fake_sdk
import onnx
import pytest
from fake_sdk import job
from onnx import TensorProto, helper

from QEfficient.compile.partitions import (
    check_partition_options,
    check_partitions,
    layers_of_stages,
    partition_file,
    split_nodes,
    write_partitions,
)
from QEfficient.errors import CompileError, OptionError

SLICES = {
    "connections": [{"devices": [0, 1], "type": "p2p"}],
    "partitions": [
        {"name": "Partition0", "devices": [{"deviceId": 0, "numCores": 16}, {"deviceId": 1, "numCores": 16}]}
    ],
}


def test_one_device_needs_no_file(tmp_path: Path) -> None:
    assert write_partitions(tmp_path, tmp_path / "no.onnx", job()) is None
    assert not list(tmp_path.iterdir())


def test_tensor_slices_are_upstreams(tmp_path: Path) -> None:
    path = write_partitions(tmp_path, tmp_path / "no.onnx", job(num_devices=2))
    assert path == tmp_path / "mdp_ts_2.json"
    assert json.loads(path.read_text()) == SLICES


def test_a_pipeline_splits_layers_and_devices(tmp_path: Path) -> None:
    onnx_path = fake_sdk.decoder(tmp_path / "m.onnx", num_layers=3)
    path = write_partitions(tmp_path, onnx_path, job(num_devices=4, mdp_num_partitions=2, num_cores=14))
    assert path == tmp_path / "mdp_disagg_4d_2p.json"
    assert json.loads(path.read_text()) == {
        "connections": [{"devices": [0, 1, 2, 3], "type": "p2p"}],
        "partitions": [
            {
                "name": "Partition0",
                "nodeList": ["embed", "k0", "mul_0", "relu_0", "v0", "k1", "mul_1", "relu_1", "v1"],
                "devices": [{"deviceId": 0, "numCores": 14}, {"deviceId": 1, "numCores": 14}],
            },
            {
                "name": "Partition1",
                "nodeList": ["k2", "mul_2", "relu_2", "v2", "head"],
                "devices": [{"deviceId": 2, "numCores": 14}, {"deviceId": 3, "numCores": 14}],
            },
        ],
    }


@pytest.mark.parametrize(
    ("num_layers", "sizes"),
    [(4, [2, 2]), (5, [3, 2]), (8, [2, 2, 2, 2]), (9, [2, 3, 2, 2]), (10, [2, 3, 3, 2]), (11, [3, 3, 3, 2])],
)
def test_layers_left_over_go_to_the_middle_then_to_the_first(num_layers: int, sizes: list[int]) -> None:
    assert layers_of_stages(num_layers, len(sizes)) == sizes


def test_more_stages_than_layers() -> None:
    with pytest.raises(OptionError, match="2 layers"):
        layers_of_stages(2, 3)


@pytest.mark.parametrize("num_partitions", [2, 3, 5])
def test_no_node_waits_for_a_later_stage(tmp_path: Path, num_partitions: int) -> None:
    model = onnx.load(fake_sdk.decoder(tmp_path / "m.onnx", num_layers=5), load_external_data=False)
    # What all layers use, computed after the first ones in the file.
    model.graph.node.insert(9, helper.make_node("Identity", ["position_ids"], ["shared"], name="shared"))
    model.graph.node[-2].input.append("shared")
    onnx.save(model, tmp_path / "m.onnx")
    stages = split_nodes(tmp_path / "m.onnx", num_partitions)
    stage_of = {name: stage for stage, names in enumerate(stages) for name in names}
    makers = {name: node.name for node in model.graph.node for name in node.output}
    assert stage_of.keys() == {node.name for node in model.graph.node}
    assert all(
        stage_of[makers[name]] <= stage_of[node.name]
        for node in model.graph.node
        for name in node.input
        if name in makers
    )
    assert all(stages)


def test_layers_are_found_by_their_weights_where_their_ends_have_no_name(tmp_path: Path) -> None:
    path = fake_sdk.decoder(tmp_path / "m.onnx", num_layers=2)
    marked = split_nodes(path, 2)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"layer.0", b"plain_0").replace(b"layer.1", b"plain_1"))
    assert {*chain(*split_nodes(path, 2))} == {*chain(*marked)}
    assert split_nodes(path, 2)[0] == ["embed", "k0", "mul_0", "v0"]  # what follows is needed by the next layer first


def test_a_weight_that_two_layers_share_marks_neither(tmp_path: Path) -> None:
    path = fake_sdk.decoder(tmp_path / "m.onnx", num_layers=2)
    expected = split_nodes(path, 2)
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        node.input[:] = [name.replace("layers.1", "layers.0") for name in node.input]
    onnx.save(model, path)
    assert split_nodes(path, 2) == expected
    path.write_bytes(path.read_bytes().replace(b"layer.0", b"plain_0").replace(b"layer.1", b"plain_1"))
    assert "mul_1" in split_nodes(path, 2)[1]


def test_inlined_functions_are_named_as_the_compiler_names_them(tmp_path: Path) -> None:
    path = fake_sdk.decoder(tmp_path / "m.onnx", num_layers=2)
    model = onnx.load(path, load_external_data=False)
    inner = helper.make_node("Relu", ["x"], ["y"], name="inner")
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "Act", ["x"], ["y"], [inner], opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    node = next(node for node in model.graph.node if node.name == "relu_1")
    node.op_type, node.domain = "Act", "own"
    onnx.save(model, path)
    assert split_nodes(path, 2)[1][2:4] == ["relu_1", "relu_1/inner"]


@pytest.mark.parametrize("name", ["", "k1"])
def test_nodes_need_names_of_their_own(tmp_path: Path, name: str) -> None:
    path = fake_sdk.decoder(tmp_path / "m.onnx")
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].name = name
    onnx.save(model, path)
    with pytest.raises(CompileError, match=f"'{name}' is not one"):
        split_nodes(path, 2)


def test_a_graph_without_layers_cannot_be_split(tmp_path: Path) -> None:
    x, y = (fake_sdk.value(name, TensorProto.FLOAT, 1) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "g", [x], [y])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(CompileError, match="layers none"):
        split_nodes(tmp_path / "m.onnx", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_devices": 3, "mdp_num_partitions": 2}, "evenly"),
        ({"mdp_num_partitions": 2}, "evenly"),
        ({"mos": 17}, "num_cores=16"),
        ({"mdp_load_partition_config": "gone.json"}, "cannot be read"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_partition_options(job(**options))


def test_a_file_of_the_users_own_is_checked_and_used(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps(SLICES))
    given = {"mdp_load_partition_config": str(own)}
    assert write_partitions(tmp_path / "none", tmp_path / "no.onnx", job(**given, num_devices=2)) == own
    assert partition_file(tmp_path / "none", job(**given)) == own
    for options, message in [
        ({"num_devices": 4}, "2 devices, num_devices=4"),
        ({"num_cores": 14}, "numCores=16, num_cores=14"),
        ({"num_devices": 2, "mdp_num_partitions": 2}, "leave out mdp_num_partitions"),
    ]:
        with pytest.raises(OptionError, match=message):
            check_partition_options(job(**given, **options))


def test_a_device_may_be_in_one_partition_only() -> None:
    partition = SLICES["partitions"][0]
    assert check_partitions(SLICES, 16, "here") == 2
    with pytest.raises(OptionError, match=r"here.*\[0, 1, 0, 1\]"):
        check_partitions({"partitions": [partition, partition]}, 16, "here")
    for wrong in ([], {}, {"partitions": []}, {"partitions": [{}]}, {"partitions": 1}):
        with pytest.raises(OptionError, match="here"):
            check_partitions(wrong, 16, "here")
