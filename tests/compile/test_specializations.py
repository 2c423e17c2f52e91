"""The specialization file: both forms, and what must not reach the compiler."""

from __future__ import annotations

import json
from pathlib import Path

import fake_sdk
import pytest
from fake_sdk import job

from QEfficient.compile.custom_io import GraphValue
from QEfficient.compile.specializations import (
    check_specializations,
    read_specializations,
    unique_names,
    write_specializations,
)
from QEfficient.errors import CompileError, OptionError

NAMED = """{
    "specializations": [
        {
            "name": "Prefill",
            "symbols": {
                "batch_size": "1",
                "seq_len": "8",
                "ctx_len": "32"
            }
        },
        {
            "name": "Decode",
            "symbols": {
                "batch_size": "1",
                "seq_len": "1",
                "ctx_len": "32"
            }
        }
    ]
}
"""
FLAT = {
    "specializations": [
        {"batch_size": "1", "seq_len": "8", "ctx_len": "32"},
        {"batch_size": "1", "seq_len": "1", "ctx_len": "32"},
    ]
}
INPUTS = [
    GraphValue("input_ids", "int64", ("batch_size", "seq_len")),
    GraphValue("past_key.0", "float32", ("batch_size", 2, "ctx_len", 4)),
]


@pytest.mark.parametrize("version", ["1.22.0.41", "1.23", "2.0", None])
def test_named_form_is_upstreams_text(tmp_path: Path, version: str | None) -> None:
    assert write_specializations(tmp_path, job(), version).read_text() == NAMED


@pytest.mark.parametrize("version", ["1.21.6.0", "1.9"])
def test_older_sdks_get_the_flat_form(tmp_path: Path, version: str) -> None:
    assert json.loads(write_specializations(tmp_path, job(), version).read_text()) == FLAT


def test_form_can_be_chosen(tmp_path: Path) -> None:
    flat = job(compiler_options={"specialization_format": "flat"})
    assert json.loads(write_specializations(tmp_path, flat, "1.22").read_text()) == FLAT
    with pytest.raises(OptionError, match=r"'named'.*'flat'.*'nested'"):
        write_specializations(tmp_path, job(compiler_options={"specialization_format": "nested"}), "1.22")


def test_names_that_occur_twice_are_numbered() -> None:
    several = job(("Prefill", {"c": 1}), ("Prefill", {"c": 2}), ("Decode", {"c": 3}))
    assert unique_names(several.specializations) == ["Prefill_0", "Prefill_1", "Decode"]
    clash = job(("P", {"c": 1}), ("P", {"c": 2}), ("P_0", {"c": 3}))
    with pytest.raises(OptionError, match="P_0, P_1, P_0"):
        unique_names(clash.specializations)


@pytest.mark.parametrize("size", [0, -1, True, "8"])
def test_sizes_are_whole_numbers(tmp_path: Path, size: object) -> None:
    with pytest.raises(OptionError, match="seq_len"):
        write_specializations(tmp_path, job(("P", {"seq_len": size})), None)  # type: ignore[dict-item]


def test_no_specialization_is_an_error(tmp_path: Path) -> None:
    empty = fake_sdk.CompileJob(specializations=(), options=job().options)
    with pytest.raises(OptionError, match="no specialization"):
        write_specializations(tmp_path, empty, None)


def test_specializations_must_differ_in_an_axis_of_the_inputs() -> None:
    check_specializations(job(), INPUTS)
    same = job(
        ("Prefill", {"batch_size": 1, "seq_len": 1, "ctx_len": 32, "full_batch_exec_size": 1}),
        ("Decode", {"batch_size": 1, "seq_len": 1, "ctx_len": 32}),
    )
    with pytest.raises(OptionError, match=r"'Prefill' and 'Decode' have the same input shapes.*seq_len=1"):
        check_specializations(same, INPUTS)


def test_every_axis_needs_a_size() -> None:
    with pytest.raises(CompileError, match=r"'Decode' gives no size to the axis 'ctx_len'.*'past_key.0'"):
        check_specializations(job(("Decode", {"batch_size": 1, "seq_len": 1})), INPUTS)


@pytest.mark.parametrize("version", ["1.21", "1.22"])
def test_both_forms_are_read_back(tmp_path: Path, version: str) -> None:
    read = read_specializations(write_specializations(tmp_path, job(), version))
    assert [entry.symbols for entry in read] == [entry.symbols for entry in job().specializations]
    expected = ["Prefill", "Decode"] if version == "1.22" else ["Specialization_0", "Specialization_1"]
    assert [entry.name for entry in read] == expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"specializations": [1]}', '{"specializations": [{"a": "b"}]}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(CompileError, match=r"s\.json is not a specialization file"):
        read_specializations(tmp_path / "s.json")
