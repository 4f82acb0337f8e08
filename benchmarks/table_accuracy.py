"""How well the latency table predicts: random sub-networks of a supernet, predicted against measured.

    python benchmarks/table_accuracy.py --resolution 32 --limit-ms 0.1

Prints one line a network, the worst error, the rank correlation, and how long an empty table took to fill. The networks that
fit the table's offset are drawn with another seed. Takes about a minute; the machine should be idle.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hollowbone.models.fold import fold
from hollowbone.runtime import export, get_device
from hollowbone.runtime.base import Device, Example
from hollowbone.search.base import Config
from hollowbone.search.efficientformer_space import EfficientFormerSpace
from hollowbone.search.table import LatencyTable


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Predicted against measured latency.")
    parser.add_argument("--device", default="local")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--in-chans", type=int, default=1)
    parser.add_argument("--limit-ms", type=float, default=0.1, help="the supernet is chosen for this budget")
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    space, device = EfficientFormerSpace(), get_device(args.device)
    table = LatencyTable(space, device, threads=args.threads, cache=False)
    sizes = {"resolution": args.resolution, "num_classes": 10, "in_chans": args.in_chans}
    start = time.perf_counter()
    supernet = space.supernet(limit_ms=args.limit_ms, predict=table.network, **sizes)
    offset = table.calibrate(space.calibration(supernet, seed=0))
    random = np.random.default_rng(args.seed)
    configs = [space.sample(supernet, random) for _ in range(args.networks)]
    predicted = np.array([space.latency(config, table) for config in configs])
    seconds = time.perf_counter() - start
    measured = np.array([shipped_ms(space, config, device, args.threads) for config in configs])

    facts = device.facts()
    print(f"{device.name}: {facts['processor']}, onnxruntime {facts['onnxruntime']}, {args.threads} thread(s), batch 1")
    print(f"supernet widths {supernet['widths']} depths {supernet['depths']}")
    print(f"offset {offset.fixed_ms:.4f} ms, scale {offset.scale:.3f}, fitted on {offset.networks} other networks")
    print(f"{'widths':>22} {'depths':>12} {'3d':>3} {'predicted ms':>13} {'measured ms':>12} {'error':>7}")
    for config, p, m in zip(configs, predicted, measured, strict=True):
        widths, depths = ("-".join(map(str, config[key])) for key in ("widths", "depths"))
        print(f"{widths:>22} {depths:>12} {config['vit_num']:>3} {p:>13.4f} {m:>12.4f} {p / m - 1:>+7.1%}")
    ranks = np.corrcoef(predicted.argsort().argsort(), measured.argsort().argsort())[0, 1]
    worst = np.abs(predicted / measured - 1).max()
    count = len(table.entries()["entries"])
    print(f"worst error {worst:.1%}, rank correlation {ranks:.3f}; {count} measurements in {seconds:.1f} s")


def shipped_ms(space: EfficientFormerSpace, config: Config, device: Device, threads: int) -> float:
    """The network as it ships, in fresh processes of the runtime: the median of three medians."""
    module, shape = space.build(config).eval(), (1, config["in_chans"], config["resolution"], config["resolution"])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(fold(module), Example(args=(x,), dynamic={0: {0: "batch"}}), Path(folder) / "model.onnx")
        times = [device.time(artifact, [x.numpy()], threads=threads, fresh=True).median_ms for _ in range(3)]
        return sorted(times)[1]


if __name__ == "__main__":
    main()
