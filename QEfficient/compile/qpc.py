"""The program that the card's compilers write: a folder with ``programqpc.bin``, whose header says how long it is."""

from __future__ import annotations

import logging
import os
import shutil
import struct
from pathlib import Path

from QEfficient.contract import CompileJob
from QEfficient.errors import CompileError

logger = logging.getLogger(__name__)

QPC_FOLDER = "qpc"
QPC_FILE = "programqpc.bin"
VERIFY_KEY = "verify_qpc"
"""The key of ``compiler_options`` that, set to False, takes a program whose header is not the known one."""
MAGIC = 0x00A1CD7C
HEADER = struct.Struct("<IBBHQQ")
"""Magic, version (major, minor), compression, bytes of the whole, base; from AI 100's open runtime (QAicQpc.h)."""


def claim_folder(folder: Path) -> Path:
    """Where the program will be: ``folder/qpc/programqpc.bin``.

    Raises:
        CompileError: the folder for it is there already; a compiler that was killed leaves one that looks whole.
    """
    program = folder / QPC_FOLDER / QPC_FILE
    if program.parent.exists():
        raise CompileError(f"{program.parent} already exists, perhaps from a compiler that was killed. Delete it.")
    return program


def link_program(folder: Path) -> None:
    """Let a package have its program where clients of the card look too: directly in ``folder``, as a link."""
    program = folder / QPC_FOLDER / QPC_FILE
    if program.is_file():
        try:
            os.link(program, folder / QPC_FILE)
        except OSError:  # a file system without links
            shutil.copyfile(program, folder / QPC_FILE)


def check_qpc(program: Path, job: CompileJob) -> None:
    """Check that a program is whole, as far as its header tells.

    How the program of several devices is framed is not public, so that there a strange header is only reported.

    Raises:
        CompileError: it is empty, cut short, or something else.
    """
    problem = _problem(program)
    if problem is None or job.options.compiler_options.get(VERIFY_KEY) is False:
        return
    if program.stat().st_size and (job.options.num_devices > 1 or job.options.mdp_load_partition_config):
        logger.warning("%s %s. That may be right for several devices.", program, problem)
        return
    raise CompileError(
        f"{program} {problem}. The disk may be full or the compiler may have been killed: compile again. If a card "
        f"does run it, give compiler_options={{'{VERIFY_KEY}': False}} and report this."
    )


def _problem(program: Path) -> str | None:
    size = program.stat().st_size
    with program.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return f"is cut short: it has {size} bytes, its header alone has {HEADER.size}"
    magic, _, _, _, expected, _ = HEADER.unpack(header)
    if magic != MAGIC:
        return f"does not begin as a program for the card does: expected 0x{MAGIC:08x}, got 0x{magic:08x}"
    return f"is cut short: it has {size} bytes, its header says {expected}" if expected > size else None
