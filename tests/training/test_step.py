"""training/step.py: it never waits for its device, compiles once, and has fused optimisers."""

import copy
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from layouts import make_camvid
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from ccnet_lab import build_model, get_config
from ccnet_lab.data.batches import Batch
from ccnet_lab.data.transforms import normalise
from ccnet_lab.errors import RunError
from ccnet_lab.model.ccnet import Segmentation
from ccnet_lab.runs import Run
from ccnet_lab.training import loop, segmentation_loss
from ccnet_lab.training.distributed import Processes, processes
from ccnet_lab.training.loop import Trainer, train
from ccnet_lab.training.schedule import build_optimizer
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.step import Stepper

STREET = replace(get_config("street"), crop_size=(32, 32), batch_size=4, resize=(64, 48))
SMALL = replace(  # little to compile, and yet every part of the network
    get_config("demo"),
    dataset="camvid",
    crop_size=(32, 32),
    batch_size=4,
    resize=(64, 48),
    width=8,
    channels=8,
    query_channels=4,
    recurrence=1,
    dropout=0.1,
    gamma=0.5,
    alias="small",
)
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile wants a C++ compiler",
)


@pytest.fixture
def settings(tmp_path):
    make_camvid(tmp_path)
    return Settings(data=tmp_path, device="cpu", steps=6, workers=0, log_every=2, save_every=2)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ohem": True, "category_loss": 0.1},
        {"optimizer": "sgd", "balance": False, "recurrence": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_never_waits_for_its_device(settings, tmp_path, change, accumulate):
    """On the device meta nothing can be read back: no value, no count, no index."""
    config = replace(STREET, **change)
    with processes("cpu") as group:
        trainer = Trainer(
            Run.create(tmp_path / "run", config),
            replace(settings, accumulate=accumulate),
            group,
            print,
        )
    meta = torch.device("meta")
    trainer.group = trainer.stepper.group = replace(group, device=meta)
    trainer.model.to(meta)
    stepper = trainer.stepper
    stepper.confusion = stepper.confusion.to(meta)
    with_losses = stepper.wrapped
    with_losses.class_weights = (
        None if with_losses.class_weights is None else with_losses.class_weights.to(meta)
    )
    stepper.optimizer = build_optimizer(trainer.model, config)
    images, labels = (
        torch.zeros(4, 32, 32, 3, dtype=torch.uint8),
        torch.zeros(4, 32, 32, dtype=torch.uint8),
    )
    batch = Batch(["a"] * 4, images, labels, torch.tensor([[0, 32, 0, 32]] * 4))
    for _ in range(3):
        trainer.pending.append(trainer.train_step(batch))
        trainer.step += 1
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):  # and here it would wait
        trainer.read_pending()


def test_logits_are_enlarged_as_torch_does():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 33, 50))
    expected = F.cross_entropy(
        F.interpolate(logits, size=(33, 50), mode="bilinear", align_corners=False), target
    )
    found = segmentation_loss(Segmentation(logits), target).main
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            segmentation_loss(Segmentation(logits.float()), target).main.double(),
            expected,
            rtol=1e-6,
            atol=0,
        )


@pytest.mark.parametrize("name", ["street", "ccnet_resnet50os16_voc"])
def test_fused_steps_are_the_plain_ones_and_old_states_can_be_loaded(name):
    config = replace(get_config(name), depth=1, output_stride=8)
    torch.manual_seed(0)
    model = build_model(config)
    plain_model = build_model(config)
    plain_model.load_state_dict(model.state_dict())
    fused = build_optimizer(model, config)
    given = {
        name: value
        for name, value in fused.defaults.items()
        if name in ("lr", "momentum", "weight_decay")
    }
    plain = type(fused)(plain_model.parameters(), **given)
    for step in range(4):
        for ours, theirs in zip(model.parameters(), plain_model.parameters(), strict=True):
            ours.grad = torch.randn_like(ours)
            theirs.grad = ours.grad.clone()
        fused.step()
        plain.step()
        if step == 1:  # as a run goes on that an older version began
            assert fused.param_groups[0]["fused"]
            fused.load_state_dict(copy.deepcopy(plain.state_dict()))
            model.load_state_dict(plain_model.state_dict())
        for ours, theirs in zip(model.parameters(), plain_model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), plain_model.parameters(), strict=True)
    )


@needs_compiler
def test_compiled_once_it_trains_as_eager_does_and_goes_on_bit_by_bit(
    settings, tmp_path, monkeypatch
):
    """Micro-batches, evaluations and checkpoints recompile nothing; it resumes compiled or not."""
    settings = replace(settings, accumulate=2, evaluate_every=1)
    eager = train(tmp_path / "eager", SMALL, settings)

    class Copied(Run):
        def save_checkpoint(self, state, step):
            super().save_checkpoint(state, step)
            assert not [name for name in state["model"] if "_orig_mod" in name]
            for name in ("resumed", "without") if step == 4 else ():
                shutil.copytree(self.folder, tmp_path / name)

    counters.clear()
    said = []
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Run", Copied)
        compiled = train(tmp_path / "compiled", SMALL, replace(settings, compile=True), said.append)
    assert counters["stats"]["unique_graphs"] == 1
    assert counters["frames"]["total"] == 1  # recompilations count, too
    assert not counters["graph_break"]
    assert [words.split(":")[0].split(",")[0] for words in said if "compil" in words] == [
        "compiling the network",
        "compiled",
    ]
    logs = [Run(tmp_path / name).metrics() for name in ("eager", "compiled")]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["step"] == theirs["step"]
        assert ours.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-4)
    assert compiled["miou"] == pytest.approx(eager["miou"], abs=0.02)

    for name, again in (("resumed", True), ("without", False)):
        train(tmp_path / name, SMALL, replace(settings, compile=again, resume=True))
    assert counters["stats"]["unique_graphs"] == 2
    assert counters["frames"]["total"] == 2
    weights, resumed, without = (
        load_file(tmp_path / name / "model.safetensors")
        for name in ("compiled", "resumed", "without")
    )
    assert (
        weights.keys() == resumed.keys() == without.keys() == build_model(SMALL).state_dict().keys()
    )
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    for name in weights:
        torch.testing.assert_close(without[name], weights[name], rtol=1e-2, atol=1e-3)


def test_narrow_crops_in_bfloat16_are_no_noise():
    """In bfloat16 some CPUs' convolutions of one column give noise: those crops stay in float32."""
    config = replace(SMALL, dropout=0.0)
    found = {}
    for width in (16, 64):
        for bf16 in (False, True):
            torch.manual_seed(0)
            with processes("cpu") as group:
                stepper = Stepper(build_model(config), config, group, bf16=bf16)
                pixels = torch.randint(0, 256, (4, 64, width, 3), dtype=torch.uint8)
                labels = torch.randint(0, config.num_classes, (4, 64, width), dtype=torch.uint8)
                inside = torch.tensor([[0, 64, 0, width]] * 4)
                found[width, bf16], _ = stepper(Batch(["a"] * 4, pixels, labels, inside))
    assert torch.equal(found[16, False], found[16, True])
    assert not torch.equal(found[64, False], found[64, True])
    torch.testing.assert_close(found[64, False], found[64, True], rtol=0.05, atol=0)


def test_without_a_compiler_it_says_so(settings, tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with pytest.raises(RunError, match="leave --compile out"):
        train(tmp_path / "run", SMALL, replace(settings, compile=True))


def test_losses_meaned_per_process_are_the_reference_s():
    """Half the batch in each of two processes: gradients of the mean of both halves' means."""
    config = replace(
        get_config("street8"), width=4, channels=8, query_channels=4, dropout=0.0, balance=False
    )
    torch.manual_seed(0)
    model = build_model(config)
    images = torch.randint(0, 256, (4, 32, 48, 3), dtype=torch.uint8)
    labels = torch.randint(0, 11, (4, 32, 48), dtype=torch.uint8)
    labels[:2, 4:] = 255  # far fewer labelled pixels in the first half
    inside = torch.tensor([[0, 32, 0, 48]] * 2)
    half = SimpleNamespace(
        world=2,
        device=torch.device("cpu"),
        wrap=lambda module, **_: module,
        total=lambda _: pytest.fail("asked the others"),
    )
    found, losses, expected, plain = [], 0, [], 0
    for mine in (slice(2), slice(2, 4)):
        stepper = Stepper(copy.deepcopy(model).train(), config, half, mean_per_process=True)
        stepper.wrapped.no_sync = nullcontext
        told, _ = stepper(Batch(["a", "b"], images[mine], labels[mine], inside))
        losses = losses + told
        found.append([p.grad / 2 for p in stepper.model.parameters()])
        network = copy.deepcopy(model).train()
        out, target = network(normalise(images[mine])), labels[mine].long()
        logits, aux = (
            F.interpolate(x, size=(32, 48), mode="bilinear", align_corners=False)
            for x in (out.logits, out.aux_logits)
        )
        loss = F.cross_entropy(logits, target, ignore_index=255) + 0.4 * F.cross_entropy(
            aux, target, ignore_index=255
        )
        loss.backward()
        expected.append([p.grad / 2 for p in network.parameters()])
        plain += loss.item() / 2
    assert losses[0].item() == pytest.approx(plain, rel=1e-5)
    for ours, theirs in zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(sum(ours), sum(theirs), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mean", ["pixels", "gpu"])
def test_the_mean_of_the_losses_stands_in_training_json_and_decides(settings, tmp_path, mean):
    train(tmp_path / "run", SMALL, replace(settings, steps=1, loss_mean=mean))
    assert Run.open(tmp_path / "run").training["loss_mean"] == mean
    with pytest.raises(RunError, match="loss_mean was"):
        train(
            tmp_path / "run",
            SMALL,
            replace(
                settings, steps=1, resume=True, loss_mean="gpu" if mean == "pixels" else "pixels"
            ),
        )


def test_the_length_of_an_epoch_stays_with_the_run(settings, tmp_path):
    """12 images in batches of 5: two steps; in five processes, which repeat some, three."""
    config = replace(SMALL, batch_size=5, crop_size=(32, 32))
    train(tmp_path / "run", config, replace(settings, steps=3, save_every=1))
    run = Run.open(tmp_path / "run")
    assert run.training["steps_per_epoch"] == 2
    run.write_training(run.training | {"steps_per_epoch": 3})
    trainer = Trainer(
        run, replace(settings, steps=3, resume=True), Processes(0, 1, torch.device("cpu")), print
    )
    assert trainer.per_epoch == 3
