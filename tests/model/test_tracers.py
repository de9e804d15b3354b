"""Traced, exported and transformed networks give what float64 gives, at other sizes, too."""

import copy
import io
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from functorch.compile import aot_module, nop
from torch import nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

from ccnet_lab import CrissCrossAttention, build_model, get_config
from ccnet_lab.errors import WeightsError
from ccnet_lab.model.attention import criss_cross_attention, criss_cross_attention_plain
from ccnet_lab.model.ccnet import Segmentation
from ccnet_lab.model.folding import Folded
from ccnet_lab.model.winograd import WinogradConv2d, use_winograd

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about its own tracers
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason='pip install -e ".[export]"',
)
FEATURES = [(1, 8, 5, 6), (2, 8, 7, 3), (3, 8, 1, 9), (2, 8, 40, 33)]
PICTURES = [(1, 3, 33, 50), (2, 3, 47, 65), (2, 3, 70, 41)]
STREET = replace(get_config("street"), width=4, channels=8, query_channels=4)
NETWORKS = {
    "demo": get_config("demo"),
    "demo_r1": get_config("demo_r1"),
    "street": STREET,
    "street8": replace(STREET, output_stride=8),
    "resnet": replace(get_config("ccnet_resnet50os16_voc"), channels=16, query_channels=4),
}
OPEN = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}


class Logits(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).logits


def noise(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def step():
    """A step with sharp attention and, for float64, what it is by the plain form."""
    torch.manual_seed(0)
    module = CrissCrossAttention(8, 2, gamma=1.0).eval()
    with torch.no_grad():
        module.query.weight.mul_(3)
    exact = copy.deepcopy(module).double()

    def expected(x):
        x = x.double()
        query, key, value = exact.query(x), exact.key(x), exact.value(x)
        return x + exact.gamma * criss_cross_attention_plain(query, key, value)

    return module, expected


def network(name):
    """A network whose attention counts, and its float64 logits."""
    torch.manual_seed(0)
    model = build_model(NETWORKS[name]).eval().requires_grad_(False)
    model.attention.gamma.fill_(0.7)
    exact = copy.deepcopy(model).double()
    return model, lambda images: exact(images.double()).logits


def check(run, expected, shapes):
    for shape in shapes:
        given = noise(shape)
        wanted = expected(given)
        assert (run(given) - wanted).abs().max() < 1e-5 * wanted.abs().max(), shape


def through_jit(module, x):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, (x,)), file)
    file.seek(0)
    return torch.jit.load(file)


def through_onnx(module, x, path, dynamo):
    import onnx
    import onnxruntime

    how = dict(dynamic_axes={"x": {0: "b", 2: "h", 3: "w"}})
    if dynamo:
        how = dict(dynamic_shapes=(OPEN,), verbose=False)
    torch.onnx.export(module, (x,), path, dynamo=dynamo, input_names=["x"], **how)
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run(None, {"x": given.numpy()})[0])


@pytest.mark.parametrize("shape", FEATURES)
def test_a_step_through_jit(shape):
    module, expected = step()
    check(torch.jit.trace(module, (noise(shape),)), expected, FEATURES)
    check(through_jit(module, noise(shape)), expected, FEATURES)


@needs_onnx
@pytest.mark.parametrize(("batch", "dynamo"), [(1, False), (2, False), (2, True)])
def test_a_step_through_onnx(tmp_path, batch, dynamo):
    module, expected = step()
    run = through_onnx(module, noise((batch, 8, 5, 6)), tmp_path / "step.onnx", dynamo)
    check(run, expected, FEATURES)


@needs_onnx
def test_a_step_through_onnx_of_one_size(tmp_path):
    """As the shortest call writes it: no open axes."""
    import onnxruntime

    module, expected = step()
    for batch in (1, 2):
        x = noise((batch, 8, 5, 6))
        torch.onnx.export(module, (x,), tmp_path / "step.onnx", dynamo=False, input_names=["x"])
        (given,) = onnxruntime.InferenceSession(tmp_path / "step.onnx").run(None, {"x": x.numpy()})
        assert (torch.from_numpy(given) - expected(x)).abs().max() < 1e-5


@pytest.mark.parametrize("strict", [True, False])
def test_a_step_through_export(strict):
    module, expected = step()
    program = torch.export.export(
        module, (noise((2, 8, 5, 6)),), dynamic_shapes=(OPEN,), strict=strict
    )
    check(program.module(), expected, [(2, 8, 7, 3), (3, 8, 40, 33)])


def test_a_step_through_fx():
    module, expected = step()
    traced = torch.fx.symbolic_trace(module)
    check(traced, expected, FEATURES)
    check(torch.jit.trace(traced, (noise(FEATURES[0]),)), expected, FEATURES)
    with torch.no_grad():
        traced.value.weight.zero_()  # the graph reads the weights, it doesn't keep copies
        traced.value.bias.zero_()
    assert torch.equal(traced(x := noise(FEATURES[0])), x)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_step_through_make_fx(mode):
    module, expected = step()
    graph = make_fx(module, tracing_mode=mode, _allow_non_fake_inputs=True)(noise((2, 8, 5, 6)))
    assert not [node for node in graph.graph.nodes if "ccnet_lab" in str(node.target)]
    check(graph, expected, [(2, 8, 5, 6)] if mode != "symbolic" else [(2, 8, 7, 3), (3, 8, 40, 33)])


def test_a_step_through_aot_autograd():
    module, expected = step()
    traced = aot_module(copy.deepcopy(module), fw_compiler=nop)
    x, double = (
        noise((1, 8, 5, 6)).to(dtype).requires_grad_() for dtype in (torch.float32, torch.float64)
    )
    out, wanted = traced(x), expected(double)
    assert (out - wanted).abs().max() < 1e-5
    (gradient,), (exact,) = (
        torch.autograd.grad(o.sum(), i) for o, i in ((out, x), (wanted, double))
    )
    assert (gradient - exact).abs().max() < 1e-4


def test_a_step_under_transforms():
    """A batch of batches, gradients of a functional call, a derivative against a quotient."""
    module, expected = step()
    x = noise((3, 1, 8, 5, 6))
    batched = torch.vmap(module)(x)
    for one, given in zip(x, batched, strict=True):
        assert (given - expected(one)).abs().max() < 1e-5
    double = copy.deepcopy(module).double()
    given, direction = x[0].double(), noise((1, 8, 5, 6)).double()
    weights = dict(double.named_parameters())
    found = torch.func.grad(
        lambda p: torch.func.functional_call(double, p, (given,)).square().sum()
    )(weights)
    wanted = torch.autograd.grad(double(given).square().sum(), list(weights.values()))
    for a, b in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    quotient = (expected(given + 1e-5 * direction) - expected(given - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(
        torch.func.jvp(double, (given,), (direction,))[1], quotient, rtol=1e-5, atol=1e-7
    )


def test_autocast_does_not_touch_the_scores():
    given = [3 * noise((1, c, 6, 9)) for c in (3, 3, 4)]
    wanted = criss_cross_attention_plain(*(t.double() for t in given))
    with torch.autocast("cpu", torch.bfloat16):
        mapped = torch.vmap(criss_cross_attention)(*(t[None] for t in given))[0]
        traced = torch.jit.trace(criss_cross_attention, given, check_trace=False)
    for found in (mapped, traced(*given)):
        assert (found - wanted).abs().max() < 1e-4


def test_the_operation_alone_through_jit():
    def make(*size):
        return [noise((2, c, *size)) for c in (3, 3, 4)]

    traced = torch.jit.trace(criss_cross_attention, make(5, 6))
    for size in ((5, 6), (7, 3), (1, 9)):
        given = make(*size)
        wanted = criss_cross_attention_plain(*(t.double() for t in given))
        assert (traced(*given) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_through_jit(name):
    model, expected = network(name)
    check(through_jit(Logits(model).eval(), noise(PICTURES[0])), expected, PICTURES)


@needs_onnx
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_through_the_older_onnx(tmp_path, name):
    model, expected = network(name)
    logits, images = Logits(model).eval(), noise(PICTURES[0])
    check(through_onnx(logits, images, tmp_path / "net.onnx", dynamo=False), expected, PICTURES)


@needs_onnx
def test_a_whole_network_through_the_newer_onnx(tmp_path):
    model, expected = network("demo")
    run = through_onnx(model, noise(PICTURES[1]), tmp_path / "net.onnx", dynamo=True)
    check(run, expected, PICTURES)


@pytest.mark.parametrize("strict", [True, False])
def test_a_whole_network_through_export(strict):
    """The record of results comes out of the program as it comes out of the network."""
    model, expected = network("demo")
    program = torch.export.export(
        model, (noise(PICTURES[1]),), dynamic_shapes={"images": OPEN}, strict=strict
    )
    found = program.module()(noise(PICTURES[0]))
    assert isinstance(found, Segmentation)
    assert found[1:] == (None, (), None)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert isinstance(torch.export.load(file).module()(noise(PICTURES[0])), Segmentation)
    check(lambda images: program.module()(images).logits, expected, PICTURES)


def test_attention_and_auxiliary_logits_through_export():
    model, _ = network("demo")
    how = {"with_aux": True, "return_attention": True}
    program = torch.export.export(model, (images := noise(PICTURES[0]),), how)
    found, wanted = program.module()(images, **how), model.double()(images.double(), **how)
    assert len(found.attention) == model.recurrence
    for a, b in zip(
        (found.logits, *found.attention), (wanted.logits, *wanted.attention), strict=True
    ):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_a_network_through_fx():
    model, expected = network("demo")
    check(torch.fx.symbolic_trace(Logits(model).eval()), expected, PICTURES)


def test_what_cannot_be_traced_is_refused():
    model, _ = network("demo")
    with pytest.raises(RuntimeError, match=r"Only tensors, .* can be output from traced functions"):
        torch.jit.trace(model, (noise(PICTURES[0]),))
    with pytest.raises(torch.fx.proxy.TraceError, match="cannot be used as inputs to control flow"):
        torch.fx.symbolic_trace(model)


def test_winograd_s_convolutions_are_refused_by_tracers_and_folded_networks_are_not(tmp_path):
    x = noise((1, 256, 6, 7))
    wide = use_winograd(nn.Sequential(nn.Conv2d(256, 4, 3, padding=1))).eval().requires_grad_(False)
    assert isinstance(wide[0], WinogradConv2d)
    ways = [
        lambda: torch.jit.trace(wide, (x,)),
        lambda: torch.onnx.export(wide, (x,), tmp_path / "a.onnx", dynamo=False),
        lambda: torch.export.export(wide, (x,)),
        lambda: make_fx(wide)(x),
    ]
    for way in ways:
        with pytest.raises(WeightsError, match=r"trace the model, or what folding\.Folded gives"):
            way()
    assert not list(tmp_path.iterdir())
    model, expected = network("demo")
    check(through_jit(Logits(Folded(model)).eval(), noise(PICTURES[0])), expected, PICTURES)
