"""The container's bytes, and the descriptions in it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from simulator.harness import Session

from QEfficient.errors import CorruptArtifact
from QEfficient.simulator.container import read_container, read_segment, write_container
from QEfficient.simulator.runtime.descriptors import API_CONSTANTS, IoDesc, NetworkDescriptor
from QEfficient.simulator.runtime.executor import Executable


def test_layout_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "programqpc.bin"
    write_container(path, {"networkdesc.bin": b"abc", "weights": lambda file: file.write(b"\x01" * 65) and None})
    names = b"networkdesc.bin\0" + b"weights\0"
    expected = (
        struct.pack("<IBBHQQ", 0x00A1CD7C, 0, 1, 0, 320, 0)
        + struct.pack("<QQ", 2, 40)
        + struct.pack("<QQQQ", 3, 0, 104, 128)
        + struct.pack("<QQQQ", 65, 0, 120, 192)
        + names
        + b"abc".ljust(64, b"\0")
        + (b"\x01" * 65).ljust(128, b"\0")
    )
    assert path.read_bytes() == expected
    segments = read_container(path)
    assert list(segments) == ["networkdesc.bin", "weights"]
    assert read_segment(path, segments["networkdesc.bin"]) == b"abc"


@pytest.mark.parametrize("damage", ["empty", "magic", "short", "segment"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "programqpc.bin"
    write_container(path, {"one": b"1" * 100})
    data = bytearray(path.read_bytes())
    if damage == "magic":
        data[0] ^= 1
    elif damage == "segment":
        data[40:48] = struct.pack("<Q", 1 << 40)
    path.write_bytes({"empty": b"", "short": bytes(data[:-64])}.get(damage, bytes(data)))
    with pytest.raises(CorruptArtifact):
        read_container(path)


def test_a_real_card_refuses_it(qpc: Path) -> None:
    """It lacks what the card executes."""
    segments = read_container(qpc / "programqpc.bin")
    assert "networkdesc.bin" in segments
    assert not {"network.elf", "constants.bin", "constantsdesc.bin"} & set(segments)


def test_the_simulator_refuses_a_real_one(tmp_path: Path) -> None:
    write_container(tmp_path / "programqpc.bin", {"networkdesc.bin": b"", "network.elf": b"\x7fELF"})
    with pytest.raises(CorruptArtifact, match=r"lacks sim_weights\.bin"):
        Executable(tmp_path)


def test_network_description(qpc: Path) -> None:
    network = NetworkDescriptor()
    network.ParseFromString(Executable(qpc).network())
    assert (network.major_version, network.minor_version, network.num_cores) == (9, 0, 4)
    assert network.network_name == "simulated decoder"
    assert [binding.name for binding in network.inputs] == ["input_ids", "position_ids", "past_key.0", "past_value.0"]
    assert [len(allowed.shapes) for allowed in network.allowed_shapes] == [7, 7]


def test_io_description_as_clients_read_it(qpc: Path) -> None:
    session = Session(qpc)
    named = {binding.name: binding for binding in session.bindings}
    assert [binding.index for binding in session.bindings] == list(range(7))
    ids, logits, state = named["input_ids"], named["logits"], named["past_key.0_RetainedState"]
    assert (ids.type, ids.dir) == (API_CONSTANTS["INT64_I_TYPE"], API_CONSTANTS["BUFFER_IO_TYPE_INPUT"])
    assert (list(ids.dims), ids.size, ids.is_partial_buf_allowed) == ([1, 4], 32, True)  # the larger shape
    assert (logits.type, logits.dir) == (API_CONSTANTS["FLOAT_TYPE"], API_CONSTANTS["BUFFER_IO_TYPE_OUTPUT"])
    assert (list(logits.dims), logits.size, logits.is_partial_buf_allowed) == ([1, 1, 16], 64, False)
    assert (state.type, state.size) == (API_CONSTANTS["FLOAT_16_TYPE"], 8 * 32 * 2)
    assert state.is_partial_buf_allowed
    shapes = [[list(shape.dims) for shape in allowed.shapes] for allowed in session.iodesc.allowed_shapes]
    assert [shape[0] for shape in shapes] == [[1, 4], [1, 1]]
    assert session.iodesc.allowed_shapes[0].shapes[0].type == API_CONSTANTS["INT64_I_TYPE"]


def test_field_numbers_are_the_sdks() -> None:
    """``selected_set`` is field 2, its bindings 2; of a binding name is 1, index 2, dims 7, size 8, partial 10."""
    binding = b"\x0a\x01x" + b"\x10\x03" + b"\x3a\x02\x01\x04" + b"\x40\x20" + b"\x50\x01"
    one_set = b"\x12" + bytes([len(binding)]) + binding
    message = IoDesc()
    message.ParseFromString(b"\x12" + bytes([len(one_set)]) + one_set)
    (read,) = message.selected_set.bindings
    assert (read.name, read.index, list(read.dims), read.size, read.is_partial_buf_allowed) == (
        "x",
        3,
        [1, 4],
        32,
        True,
    )
