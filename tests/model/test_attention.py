"""The op against a loop written out from the paper, and its fast form against the plain one."""

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from benchmarks.network import saved_bytes
from ccnet_lab import CrissCrossAttention, criss_cross_attention
from ccnet_lab.model import attention, attention_cpu
from ccnet_lab.model.attention import (
    criss_cross_attention_plain,
    criss_cross_residual,
    criss_cross_weights,
)
from ccnet_lab.model.attention_cpu import criss_cross_rows

SIZES = [(5, 7), (7, 5), (1, 6), (6, 1), (1, 1), (8, 8)]


@pytest.fixture
def forms(monkeypatch):
    """The forms that run, call by call."""
    choose, seen = attention.chosen_form, []
    monkeypatch.setattr(
        attention, "chosen_form", lambda *given: seen.append(choose(*given)) or seen[-1]
    )
    return seen


def tensors(
    height,
    width,
    batch=2,
    d=3,
    channels=4,
    dtype=torch.float64,
    layout=torch.contiguous_format,
    scale=1.0,
):
    g = torch.Generator().manual_seed(height * 100 + width)

    def make(c):
        made = torch.randn(batch, c, height, width, generator=g, dtype=torch.float64).mul(scale)
        return made.to(dtype).to(memory_format=layout).requires_grad_()

    return tuple(make(c) for c in (d, d, channels))


def by_hand(query, key, value):
    """Every pixel on its own: gather the H + W - 1 cells, softmax, mean."""
    out = torch.zeros_like(value)
    batch, _, height, width = query.shape
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                cells = [(k, x) for k in range(height) if k != y] + [(y, k) for k in range(width)]
                assert len(cells) == height + width - 1
                scores = torch.stack([query[b, :, y, x] @ key[b, :, i, j] for i, j in cells])
                values = torch.stack([value[b, :, i, j] for i, j in cells])
                out[b, :, y, x] = torch.softmax(scores, 0) @ values
    return out


@pytest.mark.parametrize("batch", [1, 2])  # a batch of small images takes the plain form
@pytest.mark.parametrize("size", SIZES)
def test_both_forms_are_the_paper(size, batch):
    q, k, v = tensors(*size, batch=batch)
    expected = by_hand(q, k, v)
    for form in (criss_cross_attention, criss_cross_attention_plain):
        torch.testing.assert_close(form(q, k, v), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [*SIZES, (33, 20)])
def test_fast_gradients_are_the_plain_ones(size, layout):
    q, k, v = tensors(*size, channels=70, batch=1, layout=layout)
    seed = torch.randn_like(v)
    got = torch.autograd.grad(criss_cross_attention(q, k, v), (q, k, v), seed)
    expected = torch.autograd.grad(criss_cross_attention_plain(q, k, v), (q, k, v), seed)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_batch_of_large_images_takes_the_fast_form_and_agrees(forms):
    q, k, v = tensors(16, 18, channels=256, dtype=torch.float32)  # 73,728 values per image
    out = criss_cross_attention(q, k, v)
    assert forms == ["cpu"]
    torch.testing.assert_close(out, criss_cross_attention_plain(q, k, v))


def test_gradcheck():
    assert torch.autograd.gradcheck(criss_cross_attention, tensors(3, 4, batch=1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [*SIZES, (13, 10)])
def test_the_residual_form_in_blocks_is_the_plain_one(size, layout, monkeypatch):
    monkeypatch.setattr(attention_cpu, "_BLOCK", 140)  # two or three lines, the last block smaller
    q, k, v = tensors(*size, batch=1, channels=7, layout=layout)
    x = torch.randn_like(v).requires_grad_()
    gamma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    out = criss_cross_residual(x, gamma, q, k, v)
    expected = x + gamma * criss_cross_attention_plain(q, k, v)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert out.is_contiguous(memory_format=layout)
    seed = torch.randn_like(v)
    got, wanted = (torch.autograd.grad(o, (x, gamma, q, k, v), seed) for o in (out, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_gradcheck_of_the_residual_form():
    q, k, v = tensors(3, 4, batch=1)
    gamma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.randn_like(v).requires_grad_()
    assert torch.autograd.gradcheck(criss_cross_residual, (x, gamma, q, k, v))


def test_second_derivatives_are_refused():
    q, k, v = tensors(3, 4, batch=1)
    loss = criss_cross_attention(q, k, v).square().sum()
    (gradient,) = torch.autograd.grad(loss, v, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_float32_is_as_exact_as_the_plain_form_and_repeats_itself():
    given = tensors(40, 33, batch=1, d=64, channels=96, dtype=torch.float32, scale=0.8)
    exact = [t.detach().double().requires_grad_() for t in given]
    seed = torch.randn(given[2].shape)

    def run(form, inputs):
        out = form(*inputs)
        return out, *torch.autograd.grad(out, inputs, seed.to(out.dtype))

    wanted = run(criss_cross_attention_plain, exact)
    ours, again, plain = (
        run(form, given)
        for form in (criss_cross_attention, criss_cross_attention, criss_cross_attention_plain)
    )
    for a, b, p, w in zip(ours, again, plain, wanted, strict=True):
        assert torch.equal(a, b)
        assert (a - w).norm() < 1.5 * (p - w).norm()


def test_the_step_keeps_at_most_half_of_what_the_plain_form_keeps():
    how = dict(dtype=torch.float32, layout=torch.channels_last)
    q, k, v = tensors(64, 64, batch=1, d=64, channels=512, **how)
    x, gamma = torch.randn_like(v).requires_grad_(), torch.ones((), requires_grad=True)
    ours = saved_bytes(lambda: criss_cross_residual(x, gamma, q, k, v))
    assert ours == 4 * 64 * 64 * (64 + 64 + 512 + 1)
    assert ours <= 0.501 * saved_bytes(lambda: x + gamma * criss_cross_attention_plain(q, k, v))


def test_channels_of_one_projection_are_not_copied():
    module = CrissCrossAttention(48, 8, gamma=0.5)
    x = torch.randn(1, 48, 20, 30).to(memory_format=torch.channels_last)
    query, key, value = module.project(x)
    one = value.untyped_storage().nbytes()  # all three
    assert saved_bytes(lambda: module.residual(x, query, key, value)) == one + 4 * 20 * 30


@pytest.mark.parametrize("size", SIZES)
def test_weights_sum_to_one_and_own_column_entry_is_zero(size):
    q, k, _ = tensors(*size)
    weights = criss_cross_weights(q, k)  # (B, H, W, H + W)
    assert weights.shape == (2, *size, sum(size))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, *size, dtype=torch.float64))
    assert (weights[..., : size[0]].diagonal(dim1=1, dim2=3) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type_and_float32_scores(dtype):
    # Scores beyond what float16 can hold.
    q, k, v = tensors(6, 9, dtype=dtype, scale=300.0, batch=1, d=16)
    out = criss_cross_attention(q, k, v)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()
    wide = criss_cross_attention_plain(q.float(), k.float(), v.float())
    torch.testing.assert_close(out.float(), wide, rtol=2e-2, atol=2.0)
    grads = torch.autograd.grad(out.float().sum(), (q, k, v))
    assert all(torch.isfinite(g).all() and g.dtype == dtype for g in grads)


def test_autocast_does_not_touch_the_scores():
    q, k, v = tensors(6, 9, dtype=torch.float32, scale=3.0, batch=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = criss_cross_attention(q, k, v)
    torch.testing.assert_close(inside, criss_cross_attention(q, k, v))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_keeps_the_memory_format(layout):
    q, k, v = tensors(6, 9, layout=layout)
    assert criss_cross_attention(q, k, v).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_module_keeps_the_memory_format(layout):
    module = CrissCrossAttention(48, 8, gamma=1.0)
    for size in ((2, 48, 6, 9), (2, 48, 40, 40)):  # the plain and the fast form
        x = torch.randn(size).to(memory_format=layout)
        assert module(x).is_contiguous(memory_format=layout)
        query, key, value = module.project(x)
        assert criss_cross_attention(query, key, value).is_contiguous(memory_format=layout)


def test_empty_batch_gives_an_empty_result():
    q, k, v = (t[:0] for t in tensors(5, 7))
    assert criss_cross_attention(q, k, v).shape == (0, 4, 5, 7)


def test_shapes_that_do_not_belong_together():
    q, k, v = tensors(5, 7)
    with pytest.raises(ValueError, match="one shape"):
        criss_cross_attention(q, k[:, :2], v)
    with pytest.raises(ValueError, match="value"):
        criss_cross_attention(q, k, v[..., :3])
    with pytest.raises(ValueError, match="B, d, H, W"):
        criss_cross_attention(q[0], k[0], v[0])


def test_module_adds_gamma_times_the_attention():
    module = CrissCrossAttention(8, 2, gamma=0.7).double()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    expected = x + 0.7 * by_hand(module.query(x), module.key(x), module.value(x))
    torch.testing.assert_close(module(x), expected, rtol=1e-6, atol=1e-6)


def test_module_starts_as_the_identity_and_queries_learn_nothing_at_first():
    module = CrissCrossAttention(8, 2)
    x = torch.randn(1, 8, 5, 6)
    out = module(x)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert module.gamma.grad != 0
    assert (module.query.weight.grad == 0).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_compiled_program_calls_the_fast_form_in_one_graph(layout, forms):
    given = tensors(40, 33, batch=1, d=16, channels=64, dtype=torch.float32, layout=layout)
    x, gamma = torch.randn_like(given[2]).requires_grad_(), torch.tensor(0.7, requires_grad=True)
    inputs = (x, gamma, *given)
    seed = torch.randn_like(x)
    operators = []

    def backend(graph, example_inputs):
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return aot_eager(graph, example_inputs)

    compiled = torch.compile(criss_cross_residual, backend=backend, fullgraph=True)
    expected = criss_cross_residual(*inputs)
    assert forms == ["cpu"]
    out = compiled(*inputs)
    assert sum("ccnet_lab.criss_cross_rows" in operator for operator in operators) == 1
    assert torch.equal(out, expected)
    assert out.is_contiguous(memory_format=layout)
    got, wanted = (torch.autograd.grad(o, inputs, seed) for o in (out, expected))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    kept, eager = (saved_bytes(lambda f=f: f(*inputs)) for f in (compiled, criss_cross_residual))
    assert kept == eager


def test_compiled_under_autocast_and_only_some_gradients_wanted():
    q, k, v = tensors(40, 33, batch=1, d=16, channels=64, dtype=torch.float32, scale=3.0)
    compiled = torch.compile(criss_cross_attention, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = compiled(q, k, v.detach())
        (gradient,) = torch.autograd.grad(inside.sum(), q)
    expected = criss_cross_attention(q, k, v)
    assert torch.equal(inside, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), q)[0])


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_needs_no_operator_of_ours(strict):
    module = CrissCrossAttention(48, 8, gamma=0.5).eval()
    x = torch.randn(1, 48, 20, 30)
    program = torch.export.export(module, (x,), strict=strict)
    assert not [node.target for node in program.graph.nodes if "ccnet_lab" in str(node.target)]
    torch.testing.assert_close(program.module()(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_the_operator_keeps_pytorch_s_rules(residual):
    q, k, v = (t.detach().permute(0, 2, 3, 1).contiguous().requires_grad_() for t in tensors(5, 7))
    x = torch.randn_like(v).requires_grad_()
    gamma = torch.tensor(0.7, dtype=v.dtype, requires_grad=True)
    torch.library.opcheck(criss_cross_rows, (q, k, v, *((x, gamma) if residual else (None, None))))


def test_backward_within_autocast():
    module = CrissCrossAttention(8, 4, gamma=0.3)
    x = torch.randn(1, 8, 5, 6).to(memory_format=torch.channels_last)
    found = []
    for within in (True, False):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = module(x).float().square().mean()
            if within:
                loss.backward()
        if not within:
            loss.backward()
        found.append(module.query.weight.grad)
    torch.testing.assert_close(*found, rtol=0.02, atol=1e-6)
