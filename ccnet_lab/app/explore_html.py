"""The lines around the viewer as HTML: on the model, and where it doesn't know such pictures."""

from ccnet_lab.app.examples import GENERATED
from ccnet_lab.app.rendering import Html, render
from ccnet_lab.explore.explorer import View
from ccnet_lab.explore.recurrence import GAMMA_NEAR_ZERO


def model_line(view: View, agreement: float | None = None) -> Html:
    """One line on the model: how it was trained, its gamma, its size.

    With `agreement`, of `Explorer.agreement` for a first picture, it is computed in bfloat16.
    """
    model, config = view.explorer.model, view.explorer.config
    gamma = model.attention.gamma.item()
    return render(
        "page.model_line",
        recurrence=config.recurrence,
        gamma=gamma,
        near_zero=abs(gamma) < GAMMA_NEAR_ZERO,
        parameters=sum(p.numel() for p in model.parameters()),
        stride=config.output_stride,
        camvid=config.dataset == "camvid",
        published=config.published_miou,
        agreement=agreement,
    )


def notice(view: View, kind: str) -> str:
    """Where the model doesn't know pictures of this kind, that; else "".

    `kind` is the data set that an example is like, "" for any other picture.
    """
    config = view.explorer.config
    if kind == config.dataset or not {kind, config.dataset} & {*GENERATED}:
        return ""
    if kind in GENERATED:
        return render("explore.scene_notice", name=config.name)
    beacons = config.dataset == "beacons"
    return render("explore.photograph_notice", name=config.name, beacons=beacons)
