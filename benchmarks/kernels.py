"""Compile the Triton kernels for GPUs that need not be here, and print what each takes.

  python -m benchmarks.kernels --json results/kernels.json

Registers, spilled bytes and tensor-core instructions are those that ptxas makes, not times.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from ccnet_lab.ending import ending

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from benchmarks.timing import commit
from ccnet_lab.model import attention_cuda
from ccnet_lab.model.attention_cuda import BACKWARD, FORWARD, LONGEST_BACKWARD

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
CAPABILITIES = (80, 90)  # A100; H100 and H200
LINES = (32, 64, 128, 256)  # pixels of a line: the twelve's crops, and Cityscapes' whole images
QUERY_CHANNELS, CHANNELS = 64, 512  # the head's


class Program(NamedTuple):
    """What one program of a kernel takes: the work of one block of threads."""

    capability: int  # 10 times the compute capability
    kernel: str
    line: int
    column: bool
    dtype: str
    registers: int  # a thread's, at most 255
    spilled: int  # bytes of a thread that are written to memory for want of registers
    shared: int  # bytes of shared memory
    products: int  # tensor-core instructions in the code


def compile_program(
    kernel: Any, capability: int, line: int, column: bool, dtype: str = "bf16"
) -> Program:
    """Compile a kernel of attention_cuda.py as it is launched for lines of that length.

    Args:
        kernel: `_forward` or `_backward`. capability: 80 or 90, say.
        line: pixels of a line. column: whether lines are columns. dtype: "bf16" or "fp16".

    Raises:
        subprocess.CalledProcessError: ptxas refuses the code.
    """
    forward = kernel is attention_cuda._forward
    tile = attention_cuda._tile(FORWARD if forward else BACKWARD, line, CHANNELS, QUERY_CHANNELS)
    launch = {name: tile.pop(name) for name in ("num_warps", "num_stages")}
    fixed: dict[str, Any] = {**tile, "column": column}
    if forward:
        fixed["blocks"] = triton.cdiv(line, tile["block"])
    names = kernel.arg_names
    types = {name: _type(name, dtype) for name in names if name not in fixed}
    aligned = [  # what the caching allocator and whole channels give
        (names.index(name),) for name in types if name not in ("height", "width")
    ]
    source = ASTSource(
        kernel,
        types | dict.fromkeys(fixed, "constexpr"),
        {(names.index(name),): value for name, value in fixed.items()},
        {place: [["tt.divisibility", 16]] for place in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch)
    said, code = _assembled(compiled, capability)
    return Program(
        capability,
        kernel.__name__.strip("_"),
        line,
        column,
        dtype,
        registers=int(_number(r"Used (\d+) registers", said)),
        spilled=int(_number(r"(\d+) bytes spill stores", said)),
        shared=compiled.metadata.shared,
        products=len(re.findall(r"\b[HQ]?G?MMA\.", code)),
    )


def _type(name: str, dtype: str) -> str:
    if name in ("height", "width") or name.endswith("_step"):
        return "i32"
    return "*fp32" if name in ("column_lse", "lse", "delta") else f"*{dtype}"


def _assembled(compiled: CompiledKernel, capability: int) -> tuple[str, str]:
    """What ptxas says of the code it makes, and that code as text."""
    architecture = f"sm_{capability}{'a' if capability >= 90 else ''}"
    with tempfile.TemporaryDirectory() as folder:
        ptx, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        ptx.write_text(compiled.asm["ptx"])
        words = ["-v", "--gpu-name", architecture, str(ptx), "-o", str(binary)]
        return _run("ptxas", *words).stderr, _run("nvdisasm", str(binary)).stdout


def _run(tool: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([TOOLS / tool, *words], capture_output=True, text=True, check=True)


def _number(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"ptxas says nothing like {pattern!r}: {text[:400]}")
    return found[1]


def programs(
    capabilities: tuple[int, ...] = CAPABILITIES, lines: tuple[int, ...] = LINES
) -> list[Program]:
    """Both kernels in bfloat16, for each line that they take, columns and rows."""
    return [
        compile_program(kernel, capability, line, column)
        for capability in capabilities
        for kernel, longest in (
            (attention_cuda._forward, max(lines)),
            (attention_cuda._backward, LONGEST_BACKWARD),
        )
        for line in lines
        if line <= longest
        for column in (True, False)
    ]


def main() -> None:
    """Print a table and, with --json, store it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to store the table")
    args = parser.parse_args()
    found = programs()
    print("| sm | kernel | line | of | registers | spilled, B | shared, KiB | products |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for p in found:
        place = f"{p.capability} | {p.kernel} | {p.line} | {'columns' if p.column else 'rows'}"
        print(f"| {place} | {p.registers} | {p.spilled} | {p.shared >> 10} | {p.products} |")
    if args.json:
        facts = {"commit": commit(), "triton": triton.__version__}
        stored = {**facts, "kernels": [program._asdict() for program in found]}
        args.json.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    ending(main)
