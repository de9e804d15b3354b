"""The Triton kernels compiled for GPUs that aren't here, by Triton's own assembler."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    pytest.skip("triton isn't installed", allow_module_level=True)

from benchmarks.kernels import TOOLS, compile_program, programs
from ccnet_lab.model import attention_cuda

if not (TOOLS / "ptxas").is_file():
    pytest.skip("this triton has no assembler of its own", allow_module_level=True)

SHARED = 99 * 1024  # bytes a program may have on consumers' GPUs since Ampere
RESULTS = Path(__file__).parents[2] / "results" / "kernels.json"


def test_every_program_fits_and_uses_the_matrix_units():
    found = programs(lines=(32, 128))
    assert len(found) == 16
    for program in found:
        assert program.registers <= 255
        assert program.shared <= SHARED, program
        assert program.products >= 8, program
        # The backward holds a line's weights whole: a few bytes of a thread's on sm_90.
        most = 0 if program.kernel == "forward" else 64 if program.capability == 90 else 512
        assert program.spilled <= most, program


def test_float32_would_have_no_matrix_units():
    """Why the kernels refuse float32: the count of products is no constant of this test."""
    program = compile_program(attention_cuda._forward, 80, 64, True, "fp32")
    assert program.products == 0
    assert compile_program(attention_cuda._forward, 80, 64, True, "fp16").products > 0


def test_the_stored_table_is_of_these_kernels():
    """Sizes that are not the assembler's choice."""
    stored = json.loads(RESULTS.read_text())["kernels"]
    assert len(stored) == 28
    for row in stored:
        if row["line"] == 32:
            kernel = getattr(attention_cuda, f"_{row['kernel']}")
            now = compile_program(kernel, row["capability"], row["line"], row["column"])
            assert (now.products > 0) == (row["products"] > 0)
            assert abs(now.registers - row["registers"]) <= 64
