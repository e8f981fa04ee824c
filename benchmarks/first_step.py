r"""Is the first training step as fast as later ones?

The small initial weights of the convex network make subnormal numbers, on which a CPU is very slow
unless they are flushed to zero, as the command line does. Trains the maps of the paper's sizes on
64x64 fields for a few steps through the command line, in a process of its own for each mode, and
prints the ratio of the first step to the median of the later ones.

    python benchmarks/first_step.py [steps]
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
CHILD = """
import json, sys, time
import lightning as L
import torch
from namm import cli

class Clock(L.Callback):
    def on_train_batch_start(self, *args):
        self.start = time.perf_counter()
    def on_train_batch_end(self, *args):
        seconds.append(time.perf_counter() - self.start)

seconds, build = [], L.Trainer.__init__
def with_clock(self, *args, callbacks=None, **kwargs):
    build(self, *args, callbacks=[*(callbacks or []), Clock()], **kwargs)
L.Trainer.__init__ = with_clock
if sys.argv[1] == "kept":
    torch.set_flush_denormal = lambda mode: None
cli.main(sys.argv[3:])
json.dump(seconds, open(sys.argv[2], "w"))
"""


def measure(mode: str, steps: int) -> list[float]:
    r"""Returns the seconds of each training step.

    Arguments:
        mode: `flushed`, as the command line does, or `kept`.
        steps: The number of steps.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [CONFIGS / "trainer.yaml", *(CONFIGS / "burgers").glob("data.yaml")]
        argv = ["fit", *(arg for file in files for arg in ("-c", str(file)))]
        argv += ["-c", str(CONFIGS / "burgers" / "namm.yaml"), f"--trainer.max_steps={steps}"]
        argv += ["--data.init_args.sizes={train: 256, val: 16}", "--trainer.limit_val_batches=0"]
        argv += ["--trainer.enable_progress_bar=false", "--trainer.logger.version=first"]
        out = Path(folder, "seconds.json")
        command = [sys.executable, "-c", CHILD, mode, str(out), *argv]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return json.loads(out.read_text())


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    for mode in ("flushed", "kept"):
        first, *later = measure(mode, steps)
        median = statistics.median(later)
        print(f"{mode:8} first {first:6.2f} s, later {median:6.2f} s, ratio {first / median:.2f}")


if __name__ == "__main__":
    main()
