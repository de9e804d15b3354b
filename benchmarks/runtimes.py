"""A network in runtimes made by others, beside which network.py times ours.

ONNX Runtime comes with `pip install -e ".[export]"`; OpenVINO is timed where it is installed.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.export import Deployed


def runtimes(
    model: CCNet, images: Tensor, folder: Path, bf16: bool
) -> dict[str, Callable[[], Tensor]]:
    """What gives the logits of the images in each runtime, at as many threads as torch has.

    Args:
        model: on a CPU, in eval mode. images: (B, 3, H, W), normalised.
        folder: takes the network as an ONNX file of that one size.
        bf16: whether to run in bfloat16, too, where the runtime can.
    """
    path, threads = folder / "network.onnx", torch.get_num_threads()
    deployed = Deployed(model, model.recurrence, labels=False).eval()
    torch.onnx.export(deployed, (images,), path, dynamo=True, external_data=False, verbose=False)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = images.numpy()

    def through_onnxruntime() -> Tensor:
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: given})[0])

    def through_openvino(precision: str) -> Callable[[], Tensor]:
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        import openvino

        compiled: Any = openvino.Core().compile_model(path, "CPU", settings)
        return lambda: torch.from_numpy(compiled([given])[0].copy())

    found = {"ONNX Runtime": through_onnxruntime}
    if find_spec("openvino"):
        found["OpenVINO"] = through_openvino("f32")
        if bf16:
            found["OpenVINO, bf16"] = through_openvino("bf16")
    return found
