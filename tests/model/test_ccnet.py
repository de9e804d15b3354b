"""model/ccnet.py and backbone.py: shapes, parameter counts, and the reference's numbers."""

import numpy as np
import pytest
import torch
from conftest import PARITY, filled, published_shapes

from ccnet_lab import CONFIGS, build_model, load_weights

PARAMETERS = {
    "50voc": 52_192_779,
    "101voc": 71_184_907,
    "50ade20k": 52_325_133,
    "101ade20k": 71_317_261,
}
PARAMETERS |= {"50cityscapes": 52_190_727, "101cityscapes": 71_182_855}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_count(name):
    config = CONFIGS[name]
    with torch.device("meta"):
        model = build_model(name)
    assert (
        sum(p.numel() for p in model.parameters()) == PARAMETERS[f"{config.depth}{config.dataset}"]
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in PARITY.glob("*.npz")))
def test_logits_are_the_reference_s(name):
    model = build_model(name).eval()
    load_weights(model, {"model": filled(published_shapes(name))})
    images = torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        out = model(images, recurrence=2, with_aux=True)
    reference = np.load(PARITY / f"{name}.npz")
    for kind in ("logits", "aux_logits"):
        difference = np.abs(getattr(out, kind).numpy() - reference[kind]).max()
        assert difference <= 1e-4 * np.abs(reference[kind]).max()


@pytest.fixture(scope="module")
def small():
    """A full-size network in everything but depth of use: R-50-D16 with filled weights."""
    model = build_model("ccnet_resnet50os16_voc").eval()
    load_weights(model, filled(published_shapes("ccnet_resnet50os16_voc")))
    return model


@pytest.mark.parametrize("size", [(97, 131), (16, 80), (80, 16), (1, 1)])
@torch.inference_mode()
def test_odd_sizes_and_recurrences(small, size):
    images = torch.randn(1, 3, *size)
    seen = []
    for recurrence in (0, 1, 2, 3):
        out = small(images, recurrence=recurrence, return_attention=True)
        h, w = out.logits.shape[2:]
        assert (h, w) == tuple(-(-side // 16) for side in size)
        assert [a.shape for a in out.attention] == [(1, h, w, h + w)] * recurrence
        assert out.aux_logits is None
        seen.append(out.logits)
    assert all(torch.isfinite(logits).all() for logits in seen)
    assert not torch.allclose(seen[0], seen[1])
    assert torch.equal(seen[2], small(images).logits)


def test_output_stride_8_keeps_more_cells():
    with torch.device("meta"):
        out = build_model("ccnet_resnet50os8_voc")(torch.randn(2, 3, 97, 129), with_aux=True)
    assert out.logits.shape == (2, 21, 13, 17)
    assert out.aux_logits.shape == (2, 21, 13, 17)


def test_auxiliary_output_in_train_mode_only_unless_asked():
    model = build_model("ccnet_resnet50os16_voc").train()
    images = torch.randn(2, 3, 32, 32)
    assert model(images).aux_logits is not None
    assert model(images, with_aux=False).aux_logits is None
    demo = build_model("demo")
    assert demo(images, with_aux=True).aux_logits is None
    assert demo(images).logits.shape == (2, 5, 8, 8)


def test_negative_recurrence_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        build_model("demo")(torch.zeros(1, 3, 8, 8), recurrence=-1)
