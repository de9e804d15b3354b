"""The Triton kernels in Triton's interpreter against the plain form, and the choice of form."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from ccnet_lab.model import attention
from ccnet_lab.model.attention import criss_cross_attention, criss_cross_attention_plain

if find_spec("triton") is None:
    pytest.skip("triton isn't installed: the kernels can't be read", allow_module_level=True)

INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(
    not INTERPRETER, reason="runs in the process that test_in_the_interpreter starts"
)
# Of the norm: about 10 times a rounding.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.mark.skipif(INTERPRETER, reason="this is that process")
def test_in_the_interpreter():
    """Triton reads TRITON_INTERPRET when it is imported, so the tests below need a process."""
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(
        words,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def forms(monkeypatch):
    """The forms that run, call by call."""
    choose, seen = attention.chosen_form, []
    monkeypatch.setattr(
        attention, "chosen_form", lambda *given: seen.append(choose(*given)) or seen[-1]
    )
    return seen


@pytest.fixture(scope="module")
def kernels():
    """The module, with the interpreter's product of bfloat16 matrices, which is wrong, repaired."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    from ccnet_lab.model import attention_cuda

    product = InterpreterBuilder.create_dot

    def create_dot(self, a, b, *rest):
        a, b = (
            self.cast_impl(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b)
        )
        return product(self, a, b, *rest)

    InterpreterBuilder.create_dot = create_dot
    assert attention_cuda.INTERPRETED
    return attention_cuda


def tensors(height, width, channels=8, d=8, batch=1, dtype=torch.float32, scale=1.0):
    g = torch.Generator().manual_seed(height * 100 + width)
    made = (torch.randn(batch, c, height, width, generator=g) for c in (d, d, channels))
    return tuple(t.mul(scale).to(dtype).requires_grad_() for t in made)


def both(kernels, given):
    """Result and gradients by the kernels, and by the plain form in float64."""
    exact = [t.detach().double().requires_grad_() for t in given]
    found, expected = kernels.criss_cross_triton(*given), criss_cross_attention_plain(*exact)
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(found.dtype)
    return (found, *torch.autograd.grad(found, given, seed)), (
        expected,
        *torch.autograd.grad(expected, exact, seed.double()),
    )


def error(found, expected):
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


LINES = ((1, 9, 8, 16, 1), (9, 1, 8, 16, 1))
BLOCKS = ((3, 5, 20, 3, 1), (17, 2, 70, 20, 1))  # part-full tiles, of 16 and of 32 pixels


@interpreted
@pytest.mark.parametrize(
    ("dtype", "case"),
    [
        *((torch.float32, case) for case in (*LINES, *BLOCKS, (2, 3, 8, 20, 2))),
        *((t, c) for t in list(TOLERANCE)[1:] for c in BLOCKS),
    ],
)
def test_result_and_gradients_are_the_plain_ones(kernels, dtype, case):
    height, width, channels, d, batch = case
    found, expected = both(kernels, tensors(height, width, channels, d, batch, dtype))
    assert [t.dtype for t in found] == [dtype] * 4
    assert max(error(a, b) for a, b in zip(found, expected, strict=True)) < TOLERANCE[dtype]


@interpreted
def test_lines_longer_than_a_block(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "FORWARD", {1024: (16, 16, 4, 2)})
    # Three blocks and one of queries and of keys, two of channels.
    q, k, v = (t.detach() for t in tensors(33, 3, 20))
    assert (
        error(
            kernels.criss_cross_triton(q, k, v),
            criss_cross_attention_plain(q.double(), k.double(), v.double()),
        )
        < 2e-6
    )


@interpreted
def test_log_of_the_sum_of_exponentiated_scores(kernels):
    q, k, v = (t.detach() for t in tensors(4, 6))
    _, lse = kernels.criss_cross_pixels(*(kernels._pixels(t) for t in (q, k, v)), 4, 6)
    column = torch.einsum("bdyx,bdkx->byxk", q, k).masked_fill(
        torch.eye(4, dtype=torch.bool)[:, None, :], float("-inf")
    )
    scores = torch.cat([column, torch.einsum("bdyx,bdyk->byxk", q, k)], dim=-1)
    torch.testing.assert_close(lse, scores.logsumexp(-1).flatten())


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_scores_stay_finite(kernels, dtype):
    given = tensors(3, 5, d=16, dtype=dtype, scale=100.0)
    assert (
        torch.einsum("bdyx,bdyk->byxk", *(t.detach().double() for t in given[:2])).abs().max()
        > 65504
    )  # beyond float16
    found, expected = both(kernels, given)
    assert all(t.isfinite().all() for t in found)
    assert error(found[0], expected[0]) < TOLERANCE[dtype]


@interpreted
def test_twice_the_same_bits(kernels):
    first, second = (both(kernels, tensors(3, 4))[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@interpreted
def test_channels_of_one_projection_are_not_copied(kernels):
    together = torch.randn(1, 32, 3, 4).to(memory_format=torch.channels_last)
    q, k, v = together.split([8, 8, 16], dim=1)
    assert [kernels._pixels(t).data_ptr() for t in (q, k, v)] == [t.data_ptr() for t in (q, k, v)]
    assert (
        error(
            kernels.criss_cross_triton(q, k, v),
            criss_cross_attention_plain(q.double(), k.double(), v.double()),
        )
        < 2e-6
    )


@interpreted
def test_nothing_as_wide_as_the_cross_is_kept(kernels):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        kernels.criss_cross_triton(*tensors(5, 7, channels=20))
    assert kept
    assert not [shape for shape in kept if 5 + 7 in shape]


@interpreted
def test_as_an_operator_of_torch(kernels):
    pixels = tuple(kernels._pixels(t).detach().requires_grad_() for t in tensors(2, 3))
    torch.library.opcheck(kernels.criss_cross_pixels, (*pixels, 2, 3))


@interpreted
def test_compiled_into_one_graph(kernels, monkeypatch):
    monkeypatch.setattr(attention, "FORM", "triton")
    given = tensors(2, 3, dtype=torch.float16)
    operators = []

    def backend(graph, example_inputs):
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return aot_eager(graph, example_inputs)

    compiled = torch.compile(criss_cross_attention, backend=backend, fullgraph=True)
    out = compiled(*given)
    assert sum("ccnet_lab.criss_cross_pixels" in operator for operator in operators) == 1
    traced = len(operators)
    assert torch.equal(out, kernels.criss_cross_triton(*given))
    (gradient,) = torch.autograd.grad(compiled(*given).float().sum(), given[2])
    assert gradient.isfinite().all()
    assert len(operators) == traced


@interpreted
def test_what_the_kernels_do_not_take_runs_elsewhere(kernels, monkeypatch, forms):
    monkeypatch.setattr(attention, "FORM", "triton")

    def form(given):
        forms.clear()
        assert criss_cross_attention(*given).shape == given[2].shape
        (found,) = forms
        return found

    half = torch.float16
    assert form(tensors(2, 3, dtype=half)) == "triton"
    with torch.autocast("cpu", torch.bfloat16):
        assert form(tensors(2, 3, dtype=half)) == "triton"
    assert form(tensors(2, 3)) == "cpu"  # float32
    assert form(tensors(2, 3, batch=2)) == "plain"
    q, k, v = tensors(2, 3, dtype=half)
    assert form((q, k, v.float())) == "cpu"
    assert form((q[:0], k[:0], v[:0])) == "plain"
    assert form(tensors(2, 3, d=65, dtype=half)) == "cpu"
    assert form(tensors(1, 2, channels=1025, dtype=half)) == "cpu"
    assert form(tensors(1, 129, dtype=half)) == "cpu"  # too long with gradients
    assert form([t.detach() for t in tensors(1, 1025, dtype=half)]) == "cpu"
    assert kernels.takes(*(t.detach() for t in tensors(1, 129, dtype=half)))


@pytest.mark.skipif(INTERPRETER, reason="once is enough")
def test_compiled_under_autocast_the_scores_stay_float32():
    given = [t.detach() for t in tensors(6, 9, scale=3.0)]
    with torch.autocast("cpu", torch.bfloat16):
        out = torch.compile(criss_cross_attention, backend="eager", fullgraph=True)(*given)
    torch.testing.assert_close(out, criss_cross_attention_plain(*given))


@pytest.mark.skipif(INTERPRETER, reason="the interpreter takes tensors of a CPU")
def test_without_the_interpreter_a_cpu_keeps_its_own_form(monkeypatch, forms):
    monkeypatch.setattr(attention, "FORM", "triton")
    criss_cross_attention(*tensors(2, 3, dtype=torch.float16))
    assert forms == ["cpu"]
