"""VGG16 training on the CPU: graphc's generated C and PyTorch in turns, fresh random data, medians.

    python benchmarks/cpu/run.py                     # 224x224 at batch 8 and 32x32 at batch 64
    python benchmarks/cpu/run.py --image 32 --batch 64 --head 512 --classes 10 --rounds 7

Writes a table to the terminal and a JSON document under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
DEFAULT_CASES = (
    {"image": 224, "batch": 8, "head": 4096, "classes": 1000},
    {"image": 32, "batch": 64, "head": 512, "classes": 10},
)


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, who: str, case: dict[str, int], threads: int) -> None:
        options = [f"--{name}={value}" for name, value in {**case, "threads": threads}.items()]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "workers.py"), who, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> float:
        """Seconds of one step."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a worker ended with exit code {self.process.wait()}")
        return float(answer)

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate("quit\n", timeout=60)


def measure(case: dict[str, int], rounds: int, threads: int) -> dict[str, object]:
    """Medians of ``rounds`` steps each, in turns, after two steps to warm up."""
    workers = {who: Worker(who, case, threads) for who in ("graphc", "torch")}
    seconds: dict[str, list[float]] = {who: [] for who in workers}
    for number in range(rounds + 2):
        for who, worker in workers.items():
            taken = worker.step()
            if number >= 2:
                seconds[who].append(taken)
            print(f"  round {number + 1}/{rounds + 2}  {who:6s}  {taken * 1e3:8.1f} ms", flush=True)
    for worker in workers.values():
        worker.close()
    medians = {who: statistics.median(times) for who, times in seconds.items()}
    return {
        "case": case,
        "images_per_second": {who: case["batch"] / m for who, m in medians.items()},
        "median_ms": {who: m * 1e3 for who, m in medians.items()},
        "ratio": medians["torch"] / medians["graphc"],
        "all_ms": {who: [t * 1e3 for t in times] for who, times in seconds.items()},
    }


def machine(threads: int) -> dict[str, object]:
    """What the figures were measured on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((li.split(":")[1].strip() for li in text.splitlines() if "model name" in li), "?")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "avx512": "avx512f" in text,
        "python": platform.python_version(),
        "git": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
        ).stdout.strip(),
    }


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("image", "batch", "head", "classes"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    given = {n: getattr(args, n) for n in ("image", "batch", "head", "classes")}
    cases = DEFAULT_CASES
    if args.image:
        cases = ({k: v or DEFAULT_CASES[0][k] for k, v in given.items()},)
    results = []
    for case in cases:
        print("VGG16 training:", ", ".join(f"{k} {v}" for k, v in case.items()), flush=True)
        results.append(measure(case, args.rounds, args.threads))
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": machine(args.threads), "results": results}
    path = RESULTS / "cpu_vgg16_training.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{'image':>6} {'batch':>6} {'graphc img/s':>13} {'PyTorch img/s':>14} {'ratio':>6}")
    for result in results:
        case, speed = result["case"], result["images_per_second"]
        print(
            f"{case['image']:6d} {case['batch']:6d} {speed['graphc']:13.2f} "
            f"{speed['torch']:14.2f} {result['ratio']:6.2f}"
        )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
