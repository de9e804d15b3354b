"""model/attention.py: the op against a loop written out from the paper, the fast form against the plain one."""

import pytest
import torch

from ccnet_lab import CrissCrossAttention, criss_cross_attention
from ccnet_lab.model.attention import criss_cross_attention_plain, criss_cross_weights

SIZES = [(5, 7), (7, 5), (1, 6), (6, 1), (1, 1), (8, 8)]


def tensors(height, width, batch=2, d=3, channels=4, dtype=torch.float64, layout=torch.contiguous_format, scale=1.0):
    g = torch.Generator().manual_seed(height * 100 + width)
    make = lambda c: torch.randn(batch, c, height, width, generator=g, dtype=torch.float64).mul(scale).to(dtype)  # noqa: E731
    return tuple(make(c).to(memory_format=layout).requires_grad_() for c in (d, d, channels))


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


def test_a_batch_of_large_images_takes_the_fast_form_and_agrees():
    q, k, v = tensors(16, 18, channels=256, dtype=torch.float32)  # 73,728 values per image
    out = criss_cross_attention(q, k, v)
    assert "_CrissCross" in str(out.grad_fn)
    torch.testing.assert_close(out, criss_cross_attention_plain(q, k, v))


def test_gradcheck():
    assert torch.autograd.gradcheck(criss_cross_attention, tensors(3, 4, batch=1))


@pytest.mark.parametrize("size", SIZES)
def test_weights_sum_to_one_and_own_column_entry_is_zero(size):
    q, k, _ = tensors(*size)
    weights = criss_cross_weights(q, k)  # (B, H, W, H + W)
    assert weights.shape == (2, *size, sum(size))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, *size, dtype=torch.float64))
    assert (weights[..., : size[0]].diagonal(dim1=1, dim2=3) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type_and_float32_scores(dtype):
    q, k, v = tensors(6, 9, dtype=dtype, scale=300.0, batch=1, d=16)  # scores beyond what float16 can hold
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
