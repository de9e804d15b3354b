"""Train the embedded demo models and print their scores; ccnet_lab/training/demo.py trains."""

import argparse
import time
from pathlib import Path

from ccnet_lab.ending import ending

from tqdm import tqdm


def main() -> None:
    """Train both, score both, write weights and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    out = "where demo.safetensors and demo_r1.safetensors go"
    option("--out", type=Path, default=Path("ccnet_lab/assets"), help=out)
    option("--steps", type=int, default=1_000, help="optimiser steps of 16 scenes")
    option("--seed", type=int, default=0)
    option("--threads", type=int, default=2, help="CPU threads; another count rounds differently")
    option("--scenes", type=int, help="held-out scenes to score on, by default all")
    args = parser.parse_args()
    # Slow, so after --help.
    import torch

    from ccnet_lab.evaluation.evaluate import HELD_OUT, score_demo
    from ccnet_lab.model.weights import save_weights
    from ccnet_lab.training.demo import demo_table, train_demo

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    models = {}
    for name in ("demo", "demo_r1"):
        with tqdm(total=args.steps, desc=name, unit="step") as bar:
            models[name] = train_demo(
                name, args.steps, args.seed, on_step=lambda *_, bar=bar: bar.update()
            )
    trained = time.perf_counter() - start
    scenes = HELD_OUT[: args.scenes]
    table = demo_table(models, scenes)
    facts = {"steps": args.steps, "seed": args.seed}
    for name, model in models.items():
        found = score_demo(model, seeds=scenes)._asdict()
        save_weights(model, args.out / f"{name}.safetensors", name, scores=found, **facts)
    (args.out / "README.md").write_text(table)
    print(table)
    print(
        f"training took {trained:.0f} s on {args.threads} threads; "
        f"weights and table are in {args.out}"
    )


if __name__ == "__main__":
    ending(main)
