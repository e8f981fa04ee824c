r"""Is the first training step as fast as later ones?

The small initial weights of the convex network make subnormal numbers, on which a CPU is very slow
unless they are flushed to zero, as the command line does. Trains the maps of the paper's sizes on
64x64 fields for a few steps through the command line, in a process of its own with flushing and
without, and prints the ratio of the first step to the median of the later ones. From the root:

    python -m benchmarks.first_step [steps]
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch


class Clock(L.Callback):
    r"""Creates the callback that writes down the seconds of each training step.

    Arguments:
        out: The file to write.
        flush: Whether subnormal numbers stay flushed to zero.
    """

    def __init__(self, out: str, flush: bool = True) -> None:
        self.out, self.seconds = out, list[float]()
        torch.set_flush_denormal(flush)

    def on_train_batch_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)

    def on_train_end(self, *args: Any) -> None:
        Path(self.out).write_text(json.dumps(self.seconds))


def measure(flush: bool, steps: int) -> list[float]:
    r"""Returns the seconds of each training step, with subnormal numbers flushed to zero or
    not."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "namm", "fit", "-c", "configs/burgers.yaml::namm"]
        argv += [f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0"]
        argv += ["--data.init_args.sizes={train: 256, val: 16}"]
        argv += [
            f"--data.init_args.file={folder}/fields.h5",
            f"--trainer.logger.save_dir={folder}",
        ]
        argv += ["--trainer.callbacks+=benchmarks.first_step.Clock"]
        argv += [f"--trainer.callbacks.out={folder}/seconds.json"]
        argv += [f"--trainer.callbacks.flush={str(flush).lower()}"]
        subprocess.run(argv, check=True, capture_output=True)
        return json.loads(Path(folder, "seconds.json").read_text())


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    for flush in (True, False):
        first, *later = measure(flush, steps)
        median = statistics.median(later)
        print(
            f"{'flushed' if flush else 'kept':8} first step {first:.2f} s, "
            f"later {median:.2f} s, ratio {first / median:.2f}"
        )


if __name__ == "__main__":
    main()
