"""explore/explorer.py: the demo and full-size networks looking at pictures."""

import copy
import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import filled, published_shapes
from PIL import Image
from web import Served, serve

from ccnet_lab import (
    CONFIGS,
    ConfigError,
    Explorer,
    ImageError,
    build_model,
    device,
    load_weights,
    save_weights,
)
from ccnet_lab.configs import MINIATURES
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.images import MAX_PIXELS
from ccnet_lab.data.transforms import normalise
from ccnet_lab.errors import DownloadError, MissingFileError, RunError
from ccnet_lab.hub import available_models, find_weights
from ccnet_lab.runs import Run


@pytest.fixture(scope="module")
def demo():
    return Explorer.open("demo")


@pytest.fixture(scope="module")
def view(demo):
    return demo.look(make_scene(10_000_018).image)


def test_the_demo_labels_a_scene(view):
    scene = make_scene(10_000_018)
    assert view.labels.shape == (96, 96)
    assert view.labels.dtype == np.uint8
    assert (view.labels == scene.labels).mean() > 0.98
    assert view.grid == (24, 24)


def test_bfloat16_by_choice_gives_the_labels_and_maps_that_the_eye_sees(demo, view):
    rounded = Explorer(demo.model, demo.config, precision="bf16")
    assert rounded.bf16
    seen = rounded.look(view.image)
    assert (seen.labels == view.labels).mean() > 0.99
    apart = np.abs(seen.attention(48, 48) - view.attention(48, 48))
    assert 0 < apart.sum() / 2 < 0.05
    assert np.allclose(sum(seen.attention(48, 48).ravel()), 1, atol=1e-5)
    assert seen.state(2).dtype == seen.logits(2).dtype == torch.float32
    has = device.has_bf16(torch.device("cpu"))
    assert Explorer(demo.model, demo.config, precision="fast").bf16 == has
    with pytest.raises(ConfigError, match="'fp16'; expected one of auto, fp32, bf16, fast"):
        Explorer(demo.model, demo.config, precision="fp16")


def test_narrow_pictures_in_bfloat16_are_no_noise(demo, picture):
    """A convolution of one column: on some CPUs oneDNN's in bfloat16 reads what was never set."""
    rounded = Explorer(demo.model, demo.config, precision="bf16")
    for seed, size in enumerate(((301, 1), (301, 2), (301, 7), (301, 7), (301, 16), (7, 301))):
        image = picture(*size, seed)
        assert (rounded.look(image).labels == demo.look(image).labels).mean() > 0.97


def test_a_model_in_float64_is_looked_at_in_float32(demo, view):
    double = copy.deepcopy(demo.model).double()
    assert (Explorer(double, demo.config).look(view.image).labels == view.labels).all()


def test_a_view_is_the_model_s_forward_pass(demo, view):
    with torch.inference_mode():
        for recurrence in (0, 1, 2, 3):
            out = demo.model(
                normalise(view.image)[None], recurrence=recurrence, return_attention=True
            )
            torch.testing.assert_close(view.logits(recurrence), out.logits)
            for ours, theirs in zip(view.attention_weights(recurrence), out.attention, strict=True):
                np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-5)
            out = demo.network(
                normalise(view.image)[None], recurrence=recurrence, return_attention=True
            )
            torch.testing.assert_close(view.logits(recurrence), out.logits)
            for ours, theirs in zip(view.attention_weights(recurrence), out.attention, strict=True):
                np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-6)
            expected = F.interpolate(
                out.logits, size=view.size, mode="bilinear", align_corners=False
            )[0].argmax(0)
            assert np.array_equal(view.labels_at(recurrence), expected.numpy())


@pytest.mark.parametrize("size", [(40, 56), (96, 31), (1, 1), (1, 300), (333, 2)])
def test_maps_of_odd_sizes_are_the_dense_product(demo, picture, size):
    view = demo.look(picture(*size))
    (height, width), (h, w) = view.size, view.grid
    assert view.labels.shape == (height, width) == size
    for x, y in {(0, 0), (width - 1, height - 1), (width // 2, height // 3)}:
        i, j = view.cell(x, y)
        for recurrence in (1, 2, 3):
            row = np.zeros((h, w))
            row[i, j] = 1
            for weights in reversed(view.attention_weights(recurrence)):
                row = np.einsum("yx,yxk->kx", row, weights[..., :h]) + np.einsum(
                    "yx,yxk->yk", row, weights[..., h:]
                )
            found = view.attention(x, y, recurrence)
            assert found.dtype == np.float32
            assert found.sum() == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(
                found, row, rtol=2e-5, atol=1e-6
            )  # float32 scores of this network reach 100


def test_the_off_cross_pixel_finds_the_beacon_only_with_two_steps(view):
    scene = make_scene(10_000_018)
    beacon = tuple(slice(side // 4, (side + 6) // 4 + 1) for side in scene.beacon)
    pixel = view.pixel(72, 65)
    assert view.labels[65, 72] == scene.labels[65, 72] > 0
    on_beacon = [m[beacon].sum() for m in pixel.maps]
    assert on_beacon[0] == 0
    assert on_beacon[1] > 0.5
    assert pixel.on_cross[0] == pytest.approx(1)
    assert pixel.on_cross[1] < 0.5


def test_pixel_record(view):
    pixel = view.pixel(72, 65, (1, 2))
    assert pixel.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert pixel.probabilities.argmax() == view.labels[65, 72]
    assert len(pixel.maps) == len(pixel.on_cross) == len(pixel.class_shares) == 2
    assert pixel.class_shares[1].sum() == pytest.approx(1, abs=1e-5)
    left, top, right, bottom = pixel.box
    assert left <= 72 < right
    assert top <= 65 < bottom


def test_split_is_the_features_and_recurrence_zero_is_the_cell_itself(view):
    split = view.split(30, 70, 2)
    i, j = view.cell(30, 70)
    torch.testing.assert_close(split.parts.sum(0), view.state(2)[0, :, i, j], rtol=1e-5, atol=1e-6)
    for zero in (view.attention(30, 70, 0), view.listeners(30, 70, 0)):
        assert zero[i, j] == zero.sum() == 1
    with pytest.raises(ValueError, match="at least 1 step"):
        view.split(30, 70, 0)
    assert view.listeners(30, 70, 2)[i, j] == pytest.approx(
        float(view.attention(30, 70, 2)[i, j]), abs=1e-6
    )


@pytest.mark.parametrize("at", [(-1, 0), (0, -1), (96, 0), (0, 96)])
def test_a_pixel_outside_the_image(view, at):
    for ask in (view.attention, view.probabilities, view.listeners, view.pixel):
        with pytest.raises(ImageError, match="0 <= x < 96"):
            ask(*at)


def test_exif_rotation_turns_the_answer_too(demo, tmp_path):
    scene = make_scene(10_000_018).image
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene).transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "turned.png", exif=exif
    )
    view = demo.look(tmp_path / "turned.png")
    assert np.array_equal(view.image, scene)


def test_the_network_s_input_size(demo, picture):
    assert demo.input_size(480, 640) == (96, 128)
    assert demo.look(picture(48, 64), short_side=40).input_size == (40, 53)
    big = Explorer(build_model("ccnet_resnet50os16_cityscapes"), "ccnet_resnet50os16_cityscapes")
    assert big.input_size(1024, 2048) == (1024, 2048)
    assert big.input_size(512, 683, short_side=512) == (512, 683)


def test_an_input_that_cannot_be(demo, picture):
    for side in (0, -5):
        with pytest.raises(
            ImageError, match=f"short side is {side} pixels; expected 1 or more, or None"
        ):
            demo.look(picture(48, 64), short_side=side)
    with pytest.raises(
        ImageError,
        match=r"would be 266667 x 200000 = 53,333,400,000 pixels, the limit is 50,000,000; try",
    ) as caught:
        demo.look(picture(48, 64), short_side=200_000)
    less = int(str(caught.value).rpartition("=")[2])
    height, width = demo.input_size(48, 64, less)
    assert 0.99 * MAX_PIXELS < height * width <= MAX_PIXELS


def test_street_photograph_through_a_full_size_network_in_the_published_format(
    published_file, photograph
):
    explorer = Explorer.open(published_file("ccnet_resnet50os8_cityscapes"))
    view = explorer.look(photograph, short_side=128)
    assert view.labels.shape == (360, 480)
    assert view.grid == (16, 22)
    np.testing.assert_allclose(view.attention(240, 200, 2).sum(), 1, atol=1e-5)


@pytest.fixture
def host():
    yield from serve()


def test_a_name_fetches_the_published_checkpoint_once(tmp_path, monkeypatch, published_file, host):
    name = "ccnet_resnet50os8_cityscapes"
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path))
    monkeypatch.setenv("CCNET_LAB_MIRROR", host.url)
    with pytest.raises(DownloadError, match=rf"404.*put the file at .*{name}_train.pth by hand"):
        Explorer.open(name)
    host.files[f"{name}_train.pth"] = served = Served(
        content=published_file(name).read_bytes(), cuts=(50_000_000,)
    )
    explorer = Explorer.open(name)
    assert explorer.config == CONFIGS[name]
    expected = filled(published_shapes(name))["decoder.4.weight"]
    assert torch.equal(explorer.model.classifier[4].weight, expected)
    Explorer.open(name)
    assert (served.requests, served.resumed) == (2, 1)
    (tmp_path / "checkpoints" / f"{name}_train.pth").write_bytes(b"PK damaged")
    with pytest.raises(DownloadError, match="at its first use it had"):
        Explorer.open(name)


def test_opening(tmp_path, monkeypatch, published_file):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path))
    with pytest.raises(
        MissingFileError,
        match=r"zoo.py get ccnet_.*download https.*ccnet_resnet50os8_cityscapes_train.pth"
        r" and put it at",
    ):
        find_weights("ccnet_resnet50os8_cityscapes")
    with pytest.raises(MissingFileError, match=r"train.py street8"):
        Explorer.open("street8")
    shipped = ["demo", "demo_r1", "street", *(n for n in MINIATURES if "resnet50os8" in n)]
    assert list(available_models()) == shipped
    (tmp_path / "checkpoints").mkdir()
    os.link(
        published_file("ccnet_resnet50os8_cityscapes"),
        tmp_path / "checkpoints" / "ccnet_resnet50os8_cityscapes_train.pth",
    )
    assert list(available_models()) == [*shipped, "ccnet_resnet50os8_cityscapes"]
    assert (
        Explorer.open("ccnet_resnet50os8_cityscapes").config
        == CONFIGS["ccnet_resnet50os8_cityscapes"]
    )
    with pytest.raises(ConfigError, match="demo"):
        Explorer.open("demmo")
    renamed = shutil.copy(published_file("ccnet_resnet50os8_cityscapes"), tmp_path / "mine.pth")
    with pytest.raises(ConfigError, match="output stride"):
        Explorer.open(renamed)
    assert Explorer.open(renamed, config="ccnet_resnet50os16_cityscapes").config.output_stride == 16


def test_run_folders(tmp_path):
    run = Run.create(tmp_path / "first", CONFIGS["ccnet_resnet50os8_voc"])
    with pytest.raises(RunError, match="holds a run already"):
        Run.create(tmp_path / "first", CONFIGS["ccnet_resnet50os8_voc"])
    with pytest.raises(MissingFileError, match="no weights yet"):
        Explorer.open(run.folder)
    with pytest.raises(RunError, match="no run folder"):
        Explorer.open(tmp_path)
    demo = Explorer.open("demo")
    run = Run.create(tmp_path / "second", demo.config)
    save_weights(demo.model, run.weights, demo.config)
    run.write_scores({"miou": 0.9})
    assert Explorer.open(tmp_path / "second").config == demo.config
    assert Run.open(tmp_path / "second").scores == {"miou": 0.9}
    assert Run.open(tmp_path / "first").scores is None
    (tmp_path / "second" / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        _ = Run.open(tmp_path / "second").config


def test_the_explorer_keeps_the_weights_it_was_given():
    model = build_model("ccnet_resnet50os16_voc")
    load_weights(model, filled(published_shapes("ccnet_resnet50os16_voc")))
    before = model.backbone.layer1[0].conv1.weight.detach().clone()
    explorer = Explorer(model, "ccnet_resnet50os16_voc")
    assert explorer.model is model
    assert not model.training
    assert torch.equal(explorer.model.backbone.layer1[0].conv1.weight, before)


def test_the_faster_copy_gives_the_same_labels_and_maps(picture):
    torch.manual_seed(0)
    name = "ccnet_resnet50os8_voc"
    model = build_model(name)
    torch.nn.init.constant_(model.attention.gamma, 0.5)
    explorer = Explorer(model, name)
    view = explorer.look(picture(97, 130), short_side=97)
    assert explorer.network is not model
    assert not any(parameter.is_inference() for parameter in explorer.network.parameters())
    with torch.inference_mode():
        out = model(normalise(view.image)[None], return_attention=True)
        expected = F.interpolate(out.logits, size=view.size, mode="bilinear", align_corners=False)
    assert (view.labels == expected[0].argmax(0).numpy()).mean() >= 0.999
    for ours, theirs in zip(view.attention_weights(2), out.attention, strict=True):
        np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-3)  # less than the eye sees


def test_a_view_may_be_asked_from_many_threads_at_once(demo):
    from concurrent.futures import ThreadPoolExecutor

    scene = make_scene(4).image
    expected = demo.look(scene).attention(50, 50, 3)
    for _ in range(5):
        view = demo.look(scene)
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(lambda _, view=view: view.attention(50, 50, 3), range(8)):
                np.testing.assert_allclose(found, expected, atol=1e-6)
        assert len(view.steps(3)) == len(view._steps) == 3
