"""The two contestants of a benchmark, each alone in a process of its own.

A worker reads one word a line: "step" runs one step and answers its seconds, "quit" ends it.
While one works the other waits for its pipe, so that neither disturbs the other.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np


def batch(args: argparse.Namespace, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Fresh random images and labels."""
    rng = np.random.default_rng(number)
    images = rng.standard_normal((args.batch, 3, args.image, args.image)).astype(np.float32)
    return images, rng.integers(0, args.classes, args.batch)


def graphc_steps(args: argparse.Namespace):
    """VGG16's training step in graphc's generated C."""
    import graphc as gx

    model = gx.models.vgg16(image=args.image, classes=args.classes, head=args.head, dropout=0.0)
    x = gx.input("x", (args.batch, 3, args.image, args.image))
    y = gx.input("y", (args.batch,), dtype="int64")
    optimizer = gx.SGD(lr=1e-4, momentum=0.9, weight_decay=5e-4)
    step = gx.training_step(
        gx.cross_entropy(model(x, training=True), y), optimizer, threads=args.threads, name="bench"
    )
    number = 0
    while True:
        images, labels = batch(args, number)
        start = time.perf_counter()
        step(x=images, y=labels)
        number += 1
        yield time.perf_counter() - start


def torch_steps(args: argparse.Namespace):
    """The same step in PyTorch's best float32 mode here: channels_last and fused SGD."""
    import torch
    from torch import nn

    torch.set_num_threads(args.threads)
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    flat = 512 * (args.image // 32) ** 2
    layers += [nn.Flatten(), nn.Linear(flat, args.head), nn.ReLU(inplace=True)]
    layers += [nn.Linear(args.head, args.head), nn.ReLU(inplace=True)]
    layers += [nn.Linear(args.head, args.classes)]
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True
    )
    number = 0
    while True:
        images, labels = batch(args, number)
        x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        y = torch.from_numpy(labels)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        number += 1
        yield time.perf_counter() - start


def main() -> None:
    """Answer the parent's commands until it says quit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["graphc", "torch"])
    for name in ("image", "batch", "head", "classes", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    steps = {"graphc": graphc_steps, "torch": torch_steps}[args.who](args)
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        print(next(steps), flush=True)


if __name__ == "__main__":
    main()
