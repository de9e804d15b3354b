"""model/foreign.py, diagnosis.py: files are recognised, converted exactly or refused with why."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import published_shapes, to_published_names
from safetensors import safe_open
from safetensors.torch import save_file
from test_weights import Trap
from torch import nn
from torchvision.models import resnet50, resnet101, vit_b_16
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

from ccnet_lab import (
    CONFIGS,
    Config,
    ConfigError,
    Explorer,
    WeightsError,
    build_model,
    get_config,
    load_weights,
    save_weights,
)
from ccnet_lab.hub import find_weights
from ccnet_lab.model.attention import criss_cross_attention_plain
from ccnet_lab.model.diagnosis import convert, diagnose, main
from ccnet_lab.model.foreign import identify, unwrap
from ccnet_lab.model.weights import load_start, open_checkpoint, read_config

# ccnet_lab's layers beside those of mmsegmentation's CCHead and FCNHead; what mmcv's ConvModule
# calls conv and bn is numbered here.
MMSEG = {
    "reduce.0": "decode_head.convs.0.conv",
    "reduce.1": "decode_head.convs.0.bn",
    "attention.query": "decode_head.cca.query_conv",
    "attention.key": "decode_head.cca.key_conv",
    "attention.value": "decode_head.cca.value_conv",
    "attention.gamma": "decode_head.cca.gamma.scale",
    "refine.0": "decode_head.convs.1.conv",
    "refine.1": "decode_head.convs.1.bn",
    "classifier.0": "decode_head.conv_cat.conv",
    "classifier.1": "decode_head.conv_cat.bn",
    "classifier.4": "decode_head.conv_seg",
    "aux_classifier.0": "auxiliary_head.convs.0.conv",
    "aux_classifier.1": "auxiliary_head.convs.0.bn",
    "aux_classifier.4": "auxiliary_head.conv_seg",
}
META = {
    "mmseg_version": "0.5.0",
    "config": "model = dict(\n    backbone=dict(type='ResNetV1c', dilations=(1, 1, 2, 4), "
    "strides=(1, 2, 1, 1), contract_dilation=True),\n"
    "    decode_head=dict(type='CCHead', recurrence=2, align_corners=False))\n",
    "CLASSES": ("road", "sidewalk"),
}


def as_mmseg(entries):
    def renamed(name):
        layer = next(
            (layer for layer in MMSEG if name == layer or name.startswith(f"{layer}.")), None
        )
        return name if layer is None else MMSEG[layer] + name.removeprefix(layer)

    return {renamed(name): value for name, value in entries.items()}


def hollow(module):
    """A full-size state dict that takes no room: every entry one number, expanded."""
    return {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for name, value in (module if isinstance(module, dict) else module.state_dict()).items()
    }


def on_meta(make, **options):
    with torch.device("meta"):
        return make(**options)


def mmseg_r50():
    return as_mmseg(
        hollow(
            on_meta(
                lambda: build_model(
                    replace(get_config("ccnet_resnet50os8_cityscapes"), aux_channels=256)
                )
            )
        )
    )


def original():
    """The authors' network: stem of 64-64-128, InPlaceABN (counts no batches), gamma in a list."""

    def norm_after(inputs, outputs, bias=False):
        return [nn.Conv2d(inputs, outputs, 3, bias=bias), nn.BatchNorm2d(outputs)]

    resnet = resnet101()
    resnet.layer1[0].conv1, resnet.layer1[0].downsample[0] = (
        nn.Conv2d(128, 64, 1, bias=False),
        nn.Conv2d(128, 256, 1, bias=False),
    )
    resnet.conv1, resnet.bn1 = norm_after(3, 64)
    resnet.conv2, resnet.bn2 = norm_after(64, 64)
    resnet.conv3, resnet.bn3 = norm_after(64, 128)
    del resnet.fc
    resnet.head = nn.Module()
    resnet.head.conva, resnet.head.convb = (
        nn.Sequential(*norm_after(2048, 512)),
        nn.Sequential(*norm_after(512, 512)),
    )
    resnet.head.cca = nn.Module()
    resnet.head.cca.query_conv, resnet.head.cca.key_conv, resnet.head.cca.value_conv = (
        nn.Conv2d(512, c, 1) for c in (64, 64, 512)
    )
    resnet.head.cca.gamma = nn.Parameter(torch.zeros(1))
    resnet.head.bottleneck = nn.Sequential(
        *norm_after(2560, 512), nn.Dropout2d(), nn.Conv2d(512, 19, 1)
    )
    resnet.dsn = nn.Sequential(
        *norm_after(1024, 512, bias=True), nn.Dropout2d(), nn.Conv2d(512, 19, 1)
    )
    return {
        name: value
        for name, value in resnet.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.fixture
def doctor(monkeypatch, capsys):
    """Run the command line; gives (exit code, what it printed, what it complained of)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["weights", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


class CCHead(nn.Module):
    """mmsegmentation's head, its names and its forward pass, written for this comparison."""

    def __init__(self, inputs, channels, classes):
        super().__init__()

        def conv_module(a, b):
            return nn.Sequential()._modules | {
                "conv": nn.Conv2d(a, b, 3, padding=1, bias=False),
                "bn": nn.BatchNorm2d(b),
            }

        self.convs = nn.ModuleList(
            [
                nn.ModuleDict(conv_module(inputs, channels)),
                nn.ModuleDict(conv_module(channels, channels)),
            ]
        )
        self.conv_cat = nn.ModuleDict(conv_module(inputs + channels, channels))
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.cca = nn.Module()
        self.cca.query_conv, self.cca.key_conv = (
            nn.Conv2d(channels, channels // 8, 1),
            nn.Conv2d(channels, channels // 8, 1),
        )
        self.cca.value_conv, self.cca.gamma = nn.Conv2d(channels, channels, 1), nn.Module()
        self.cca.gamma.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        def block(layers, y):
            return layers["bn"](layers["conv"](y)).relu()

        out = block(self.convs[0], x)
        for _ in range(2):
            parts = self.cca.query_conv(out), self.cca.key_conv(out), self.cca.value_conv(out)
            out = self.cca.gamma.scale * criss_cross_attention_plain(*parts) + out
        out = block(self.convs[1], out)
        return self.conv_seg(block(self.conv_cat, torch.cat([x, out], 1)))


def test_mmsegmentations_head_gives_the_same_logits_here():
    torch.manual_seed(0)
    config = replace(
        get_config("street"), channels=16, query_channels=2, aux_channels=8, head_kernel=3
    )
    model, head = build_model(config).eval(), CCHead(48, 16, 11).eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.weight)
    (
        nn.init.normal_(head.cca.query_conv.weight),
        nn.init.normal_(head.cca.key_conv.weight),
    )  # else every pixel looks everywhere alike
    theirs = {f"decode_head.{name}": value for name, value in head.state_dict().items()}
    rest = as_mmseg(
        {n: v for n, v in model.state_dict().items() if n.startswith(("backbone.", "aux_"))}
    )
    load_weights(model, {"meta": META, "state_dict": {**rest, **theirs}})
    image = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        torch.testing.assert_close(
            model(image).logits, head(model.backbone(image).stage4), rtol=1e-5, atol=1e-6
        )
    assert model.aux_classifier[0].out_channels == 8


def test_a_mmsegmentation_file_says_its_stride_and_fits_with_256_channels(saved):
    path = saved({"meta": META, "state_dict": mmseg_r50(), "optimizer": {"state": {}}})
    found = diagnose(path)
    assert found.format.title == "mmsegmentation's CCNet"
    assert (
        found.configs
        == (replace(get_config("ccnet_resnet50os8_cityscapes"), aux_channels=256),)
        == (read_config(path),)
    )
    assert found.configs[0].published_miou is None
    assert "attention.gamma" in found.entries
    assert "renamed   35 entries" in found.text
    assert not any(found.differences)
    assert "beside    meta, optimizer" in found.text
    load_weights(on_meta(lambda: build_model(found.configs[0])), path)
    with pytest.raises(
        WeightsError,
        match=r"aux_classifier.0.weight \(256, 1024, 3, 3\), expected \(512, 1024, 3, 3\)",
    ):
        load_weights(on_meta(lambda: build_model("ccnet_resnet50os8_cityscapes")), path)


def test_a_mmsegmentation_file_opens_with_the_configuration_it_is_said_to_be_for(saved):
    theirs = build_model(replace(get_config("street"), aux_channels=8)).state_dict()
    meta = META | {"config": META["config"].replace("recurrence=2", "recurrence=3")}
    path = saved({"meta": meta, "state_dict": as_mmseg(theirs)})
    explorer = Explorer.open(path, config="street")
    assert explorer.config == replace(get_config("street"), aux_channels=8, recurrence=3)
    assert all(
        torch.equal(value, theirs[name]) for name, value in explorer.model.state_dict().items()
    )
    with pytest.raises(
        WeightsError, match=r"classifier.4.weight \(11, 64, 1, 1\), expected \(5, 64"
    ):
        Explorer.open(path, config="demo")


def test_a_training_may_begin_with_a_mmsegmentation_file_and_not_with_the_authors(saved):
    theirs, said = build_model(replace(get_config("street"), aux_channels=8)), []
    started = load_start(
        build_model("street"),
        str(saved({"meta": META, "state_dict": as_mmseg(theirs.state_dict())})),
        said.append,
    )
    assert torch.equal(started.classifier[0].weight, theirs.classifier[0].weight)
    assert said[0].endswith(
        "random at the start: aux_classifier.0, aux_classifier.1, aux_classifier.4"
    )
    with pytest.raises(WeightsError, match="leaky ReLU"):
        load_start(build_model("street"), str(saved(hollow(on_meta(original)))))


def test_where_the_stride_stays_open_both_are_named(saved, tmp_path, doctor):
    path = saved({"state_dict": mmseg_r50()})
    code, report, _ = doctor(path)
    assert code == 0
    assert "ccnet_resnet50os8_cityscapes_aux256 or ccnet_resnet50os16_cityscapes_aux256" in report
    with pytest.raises(ConfigError, match="output stride"):
        read_config(path)
    code, _, complaint = doctor(path, "--out", tmp_path / "b.safetensors")
    assert code == 1
    assert "ccnet_resnet50os8_cityscapes or ccnet_resnet50os16_cityscapes. Give" in complaint
    assert [
        config.output_stride for config in diagnose(path, "ccnet_resnet50os16_cityscapes").configs
    ] == [16]
    named = saved(
        {"state_dict": mmseg_r50()},
        "ccnet_r50-d8_512x1024_40k_cityscapes_20200616_142517-76ffdf4.pth",
    )
    assert read_config(named).output_stride == 8
    assert diagnose(
        named, "ccnet_resnet50os16_cityscapes"
    ).configs  # a name is soon changed: the caller knows better


@pytest.mark.parametrize(
    ("setting", "other", "words"),
    [
        ("align_corners=False", "align_corners=True", "align_corners"),
        ("contract_dilation=True", "contract_dilation=False", "the full one"),
        ("strides=(1, 2, 1, 1)", "strides=(1, 2, 2, 1)", "output stride: 16"),
    ],
)
def test_a_stored_configuration_that_computes_something_else_is_refused(
    saved, setting, other, words
):
    meta = META | {"config": META["config"].replace(setting, other)}
    found = diagnose(
        saved({"meta": meta, "state_dict": mmseg_r50()}), "ccnet_resnet50os8_cityscapes"
    )
    assert not found.configs
    assert words in found.refused[0]


def test_the_stored_configuration_is_searched_and_never_run(saved, tmp_path):
    text = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})\n" + META["config"].replace(
        "recurrence=2", "recurrence=3"
    )
    found = diagnose(saved({"meta": META | {"config": text}, "state_dict": mmseg_r50()}))
    assert found.configs[0].recurrence == 3
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("names", [as_mmseg, to_published_names, dict])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_conversion_is_bit_equal_and_says_what_it_is(saved, tmp_path, names, dtype):
    own = {
        n: v.to(dtype) if v.is_floating_point() else v
        for n, v in build_model("street").state_dict().items()
    }
    path, out = saved({"state_dict": names(own), "epoch": 3}), tmp_path / "b.safetensors"
    convert(path, out)
    back = open_checkpoint(out).content.entries
    assert back.keys() == own.keys()
    assert all(
        torch.equal(_bits(back[name]), _bits(value)) and back[name].dtype == value.dtype
        for name, value in own.items()
    )
    assert read_config(out) == get_config("street")
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["source"]) == "a.pth"
    assert not list(tmp_path.glob("*.writing"))
    model = on_meta(lambda: build_model("street"))
    load_weights(model, out)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert all(
        torch.equal(value, own[name].to(value.dtype)) for name, value in model.state_dict().items()
    )


def _bits(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def test_conversion_is_whole_or_not_at_all_and_never_overwrites(saved, tmp_path, doctor):
    path, out = (
        saved({"model": dict(build_model("street").state_dict())}),
        tmp_path / "b.safetensors",
    )
    out.write_bytes(b"mine")
    code, _, complaint = doctor(path, "--out", out)
    assert (code, out.read_bytes()) == (1, b"mine")
    assert "--force" in complaint
    assert doctor(path, "--out", out, "--force")[0] == 0
    assert diagnose(out).configs == (get_config("street"),)
    code, _, complaint = doctor(path, "--out", tmp_path / "none" / "b.safetensors")
    assert code == 1
    assert "cannot be written" in complaint
    assert "end in .safetensors" in doctor(path, "--out", tmp_path / "b.pth")[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "b.safetensors"]


def test_the_authors_file_is_named_and_refused(saved, tmp_path, doctor):
    path = saved({f"module.{name}": value for name, value in hollow(on_meta(original)).items()})
    found = diagnose(path)
    assert found.format.title == "the CCNet of its authors"
    assert not found.configs
    for word in (
        "64, 64 and 128",
        "|weight| + eps",
        "leaky ReLU",
        "first block",
        "align_corners=True",
        "dsn.0",
        "BGR",
    ):
        assert word in found.text
    code, _, complaint = doctor(path, "--out", tmp_path / "b.safetensors")
    assert code == 1
    assert "leaky ReLU" in complaint
    with pytest.raises(WeightsError, match="computes something else"):
        load_weights(on_meta(lambda: build_model("ccnet_resnet101os8_cityscapes")), path)


OTHERS = {
    "mmsegmentation's PSPNet": lambda: hollow(
        {
            "backbone.stem.0.weight": torch.zeros(32),
            "decode_head.psp_modules.0.1.conv.weight": torch.zeros(1),
        }
    ),
    "torchvision's FCN": lambda: hollow(on_meta(fcn_resnet50, weights_backbone=None)),
    "torchvision's DeepLabV3": lambda: hollow(on_meta(deeplabv3_resnet50, weights_backbone=None)),
    "a vision transformer": lambda: hollow(on_meta(vit_b_16)),
    "a ResNet alone": lambda: hollow(on_meta(resnet50)),
    "one tensor": lambda: {"weight": torch.zeros(3, 3)},
}


@pytest.mark.parametrize("title", OTHERS)
def test_another_network_fits_nothing(saved, doctor, tmp_path, title):
    path = saved(OTHERS[title]())
    code, report, _ = doctor(path, "--out", tmp_path / "b.safetensors")
    assert code == 1
    assert ("a ResNet alone" if "ResNet" in title else "not known here") in report
    assert "no configuration" in report
    assert not (tmp_path / "b.safetensors").exists()
    with pytest.raises(WeightsError, match=r"nothing was loaded. \d+ missing: "):
        load_weights(build_model("demo"), path)


def test_a_resnet_alone_is_known_as_start_weights(saved):
    backbone = on_meta(lambda: build_model("ccnet_resnet50os8_voc")).backbone
    found = diagnose(
        saved(hollow(backbone) | {"fc.weight": torch.zeros(1000, 2048).expand(1000, 2048)})
    )
    assert "a training may start from it" in found.text


@pytest.mark.parametrize("name", ["ccnet_resnet50os8_voc", "ccnet_resnet101os8_ade20k"])
def test_published_files_fit_and_every_entry_is_renamed(saved, name):
    shapes = published_shapes(name)
    entries = {
        n: torch.zeros((), dtype=torch.long if n.endswith("tracked") else torch.float32).expand(s)
        for n, s in shapes.items()
    }
    found = diagnose(
        saved({"model": entries, "epoch": 60, "optimizer": {"state": {0: torch.zeros(3)}}})
    )
    assert [config.name for config in found.configs] == [name, name.replace("os8", "os16")]
    assert diagnose(saved({"model": entries}, f"{name}_train.pth")).configs == (get_config(name),)
    assert f"renamed   {len(shapes)} entries" in found.text
    lines = found.text.splitlines()
    both = f"{name} or {name.replace('os8', 'os16')}"
    assert lines[0].endswith(
        f"SSSegmentation's CCNet, fits {both} exactly; say which: --config NAME, "
        "in the app PATH as NAME"
    )
    assert sum("->" in line for line in lines) == 1
    assert len(lines) < 15
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_model(name).parameters())
    assert f"{len(shapes)}; {parameters:,} parameters" in found.text
    counted = sum(n.endswith("tracked") for n in shapes)
    assert f"float32 ({len(shapes) - counted})" in found.text
    assert f"int64 ({counted})" in found.text
    assert "the attention changes nothing yet" in found.text
    assert "beside    epoch, optimizer" in found.text


def test_every_wrong_entry_is_listed(saved, doctor):
    entries = dict(build_model("street").state_dict())
    del entries["refine.0.weight"]
    entries |= {
        "head.weight": torch.zeros(1),
        "reduce.1.bias": torch.zeros(7),
        "reduce.1.weight": torch.zeros(64, dtype=torch.int8),
    }
    entries["attention.key.bias"] = torch.full((16,), float("nan"))
    code, report, _ = doctor(saved(entries))
    assert code == 1
    for line in (
        "1 missing: refine.0.weight",
        "1 extra: head.weight",
        "1 misshapen: reduce.1.bias (7,), expected (64,)",
        "1 inexact: reduce.1.weight int8, expected float32",
        "1 entries hold NaN or infinity: attention.key.bias",
    ):
        assert line in report


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "segmentor.module."]
)
def test_wrappers_are_taken_off(saved, prefix):
    own = build_model("street").state_dict()
    entries = {f"{prefix}{name}": value for name, value in own.items()}
    model = build_model("street")
    load_weights(model, saved({"state_dict": entries}))
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert diagnose(saved({"state_dict": entries})).configs == (get_config("street"),)


def test_float64_is_taken_where_nothing_is_lost():
    model, own = build_model("street"), build_model("street").state_dict()
    load_weights(
        model,
        {
            name: value.double() if value.is_floating_point() else value.float()
            for name, value in own.items()
        },
    )
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    with pytest.raises(WeightsError, match=r"1 inexact: attention.gamma float64, expected float32"):
        load_weights(model, dict(own) | {"attention.gamma": torch.tensor(0.1, dtype=torch.float64)})


def test_unreadable_files_end_with_2_and_run_nothing(saved, doctor, tmp_path):
    saved({"state_dict": {"a": torch.zeros(1)}, "meta": Trap(tmp_path / "ran")}, "evil.pth")
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    (tmp_path / "cut.pth").write_bytes(
        saved(dict(build_model("demo").state_dict())).read_bytes()[:-300]
    )
    for name, words in [
        ("evil.pth", "(posix.mkdir) and was refused without running any of it"),
        ("page.pth", "a web page"),
        ("cut.pth", "download it again"),
        ("nowhere.pth", "there is no weights file"),
    ]:
        code, report, complaint = doctor(tmp_path / name)
        assert (code, report) == (2, "")
        assert words in complaint
    assert not (tmp_path / "ran").exists()
    code, _, complaint = doctor(tmp_path / "a.pth", "--config", "demmo")
    assert code == 2
    assert "did you mean 'demo'" in complaint


def test_old_files_misnamed_ones_and_such_as_hold_other_things(saved, tmp_path, doctor):
    own = dict(build_model("street").state_dict())
    torch.save({"model": own}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert diagnose(tmp_path / "old.pth").configs == (get_config("street"),)
    save_weights(build_model("demo"), tmp_path / "m.safetensors", "demo")
    (tmp_path / "m.safetensors").rename(tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=r"let its name end with .safetensors"):
        diagnose(tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="'a' is a sparse Tensor"):
        unwrap({"a": torch.eye(2).to_sparse()})
    save_file(
        own,
        tmp_path / "newer.safetensors",
        metadata={"config": json.dumps({"dataset": "voc", "magic": 1})},
    )
    code, _, complaint = doctor(tmp_path / "newer.safetensors")
    assert code == 2
    assert "newer.safetensors: a configuration has no field 'magic'" in complaint
    with pytest.raises(WeightsError, match="its keys are no names"):
        diagnose(saved({0: torch.zeros(1)}))
    mixed = own | {
        "cca.gamma.scale": own["attention.gamma"],
        "decode_head.cca.gamma.scale": own["attention.gamma"],
    }
    with pytest.raises(WeightsError, match=r"2 extra: cca.gamma.scale, decode_head"):
        load_weights(build_model("street"), mixed)


def test_our_own_files_say_their_configuration(tmp_path, doctor):
    config = replace(get_config("street"), recurrence=1, alias="mine")
    save_weights(build_model(config), tmp_path / "m.safetensors", config)
    assert diagnose(tmp_path / "m.safetensors").configs == (config,)
    assert doctor(tmp_path / "m.safetensors", "--config", "street8")[0] == 1
    assert identify(build_model("demo").state_dict()).title == "a CCNet of ccnet_lab"


def test_the_command_runs_without_a_warning():
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "ccnet_lab.model.weights",
        str(find_weights("demo")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "bytes): a CCNet of ccnet_lab, fits demo exactly\n"
        in done.stdout.splitlines(keepends=True)[0]
    )


def test_older_stored_configurations_are_read_and_keep_their_score():
    for config in CONFIGS.values():
        stored = {name: value for name, value in config.to_dict().items() if name != "aux_channels"}
        assert Config.from_dict(stored) == config
        assert config.published_miou is not None
        assert replace(config, aux_channels=256).published_url is None
    with pytest.raises(ConfigError, match="aux_channels is -1"):
        replace(get_config("demo"), aux_channels=-1)


def test_a_trainer_s_checkpoint_says_by_its_folder_what_it_is(tmp_path):
    shapes = published_shapes("ccnet_resnet50os8_voc")
    entries = {
        n: torch.zeros((), dtype=torch.long if n.endswith("tracked") else torch.float32).expand(s)
        for n, s in shapes.items()
    }
    for stride in (8, 16):
        path = tmp_path / f"ccnet_resnet50os{stride}_voc" / "checkpoints-epoch-60.pth"
        path.parent.mkdir()
        torch.save({"model": entries, "epoch": 60}, path)
        assert read_config(path) == get_config(f"ccnet_resnet50os{stride}_voc")
        assert diagnose(path).configs == (get_config(f"ccnet_resnet50os{stride}_voc"),)
    with pytest.raises(
        ConfigError,
        match=r"open: ccnet_resnet50os8_voc or ccnet_resnet50os16_voc. Give the configuration",
    ):
        read_config(path.rename(tmp_path / "checkpoints-epoch-60.pth"))
