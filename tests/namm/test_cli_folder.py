"""The folder of a command: no file is replaced unasked, and a resumed training is the same."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml

from namm.cli.main import main
from tests.chains import CONFIGS
from tests.commands import FILES, ROOT, checkpoint, contents, fit, process, stop, write
from tests.commands import problem as problem  # a fixture

RESUME = ("--ckpt_path", "last")
MIRROR = "--model.init_args.mirror.init_args"

# The option of another setting, and the two values that the refusal names.
SETTINGS = {
    "batch size": (["--data.batch_size=8"], ["batch_size 4", "batch_size 8"]),
    "learning rate": (["--model.optimiser.lr=0.1"], ["lr 0.0002", "lr 0.1"]),
    "warm-up": (["--model.optimiser.warmup=9"], ["warmup 0", "warmup 9"]),
    "decay": (["--model.optimiser.decay=true"], ["decay False", "decay True"]),
    "seed": (["--seed_everything=5"], ["seed 0", "seed 5"]),
    "accumulation": (["--trainer.accumulate_grad_batches=2"], ["batches 1", "batches 2"]),
    "batches": (["--trainer.limit_train_batches=0.5"], ["batches 1.0", "batches 0.5"]),
    "network": ([f"{MIRROR}.forward_map.init_args.width=3"], ["(2, 2, 3, 3)", "(3, 3, 3, 3)"]),
    "epochs": (["--trainer.max_epochs=0"], []),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_resume_with_another_setting_is_refused_and_changes_nothing(
    name: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, values = SETTINGS[name]
    assert fit("a", *stop(3, signal.SIGINT)) == 130
    before = contents()
    capsys.readouterr()

    if values:
        assert fit("a", *RESUME, *options) == 1
        error = capsys.readouterr().err
        assert error.count("namm: ") == 1 and all(value in error for value in values), error
    else:
        assert fit("a", *RESUME, *options) in (None, 1)
    assert contents() == before
    assert fit("a", *RESUME) is None
    assert checkpoint("a")["global_step"] == 6


@pytest.mark.slow
def test_resume_with_another_number_of_processes_is_refused(problem: Path) -> None:
    assert fit("a", *stop(3, signal.SIGINT)) == 130
    before = contents()

    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    done = process("fit", *FILES, *RESUME, *two)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "with processes 1, this training has processes 2" in done.stderr
    assert contents() == before


def test_resume_for_more_steps_records_both_numbers_and_the_step(problem: Path) -> None:
    assert fit("a") is None
    folder = Path("runs/toy/a")
    former = (folder / "config.yaml").read_bytes()

    assert fit("a", *RESUME, "--trainer.max_steps=8") is None
    state = checkpoint("a")
    assert state["global_step"] == 8
    counts = next(c for c in state["callbacks"].values() if "per_step" in c)
    assert counts["total"] == 8 * counts["per_step"] > 0
    assert (folder / "config.until-6.yaml").read_bytes() == former
    now = yaml.safe_load((folder / "config.yaml").read_text())
    assert now["trainer"]["max_steps"] == 8
    assert yaml.safe_load(former)["trainer"]["max_steps"] == 6


@pytest.mark.parametrize("steps", [2, 3, 6])
def test_resume_for_no_more_steps_ends_at_once_and_changes_nothing(
    steps: int, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("a", "--trainer.max_steps=6") is None
    before = contents()

    assert fit("a", *RESUME, f"--trainer.max_steps={steps}") is None
    assert "runs/toy/a holds step 6 already" in capsys.readouterr().out
    assert contents() == before


def test_rate_that_decays_by_the_last_step_keeps_that_step(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decay = "--model.optimiser.decay=true"
    assert fit("a", decay, *stop(3, signal.SIGINT)) == 130
    before = contents()

    assert fit("a", decay, *RESUME, "--trainer.max_steps=9") == 1
    assert "max_steps 6, this training has max_steps 9" in capsys.readouterr().err
    assert contents() == before
    assert fit("a", decay, *RESUME) is None


def test_training_does_not_replace_another_one(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("a") is None and fit("b") is None
    before = contents()

    other = "--ckpt_path=runs/toy/b/checkpoints/last.ckpt"
    assert fit("a", other, "--trainer.max_steps=9") == 1
    assert "runs/toy/a already holds a run of 6 steps" in capsys.readouterr().err
    assert contents() == before


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv"])
def test_training_does_not_replace_a_file_of_a_person(
    name: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(f"runs/toy/a/{name}", "mine: 1\n")
    before = contents()
    table = "{class_path: CSVLogger, init_args: {save_dir: runs, name: toy, version: a}}"
    options = [f"--trainer.logger={table}"] if name == "metrics.csv" else []

    assert fit("a", *RESUME, *options) == 1
    error = capsys.readouterr().err
    assert f"runs/toy/a/{name} is there already" in error and "--replace" not in error
    assert contents() == before


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_command_that_would_do_nothing_is_refused(
    verb: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"fit": "train", "validate": "val"}.get(verb, verb)
    before = contents()

    assert main([verb, *FILES, f"--trainer.limit_{name}_batches=0"]) == 1
    assert f"limit_{name}_batches is 0" in capsys.readouterr().err
    assert contents() == before


@pytest.mark.parametrize("limit", ["max_steps", "max_epochs"])
def test_training_without_a_step_is_refused(
    limit: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()

    assert fit("a", f"--trainer.{limit}=0") == 1
    assert "Nothing was trained" in capsys.readouterr().err
    assert contents("data.h5") == before


def test_second_command_in_a_folder_is_refused(
    problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait = "import time\nfrom lightning.pytorch import Callback\n\nclass Wait(Callback):\n"
    wait += "    def on_train_batch_start(self, trainer, *args):\n"
    wait += "        if trainer.global_step == 4:\n            time.sleep(600)\n"
    write("waits.py", wait)
    command = [sys.executable, "-m", "namm", "fit", *FILES]
    command += ["--trainer.callbacks+=waits.Wait"]
    environment = {"PYTHONPATH": f"{ROOT}", "OMP_NUM_THREADS": "1", "PATH": ""}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        last = Path("runs/toy/a/checkpoints/last.ckpt")
        for _ in range(1200):
            if last.exists() and checkpoint("a")["global_step"] == 4:
                break
            time.sleep(0.1)
        assert first.poll() is None
        before = contents()
        for verb in ("fit", "validate"):
            assert main([verb, *FILES, *RESUME]) == 1
            assert f"(process {first.pid}) works in" in capsys.readouterr().err
        assert contents() == before
        first.kill()
        first.wait()
    finally:
        first.kill()
    assert fit("a", *RESUME) is None
    assert checkpoint("a")["global_step"] == 6 and not Path("runs/toy/a/.namm.lock").exists()


# A diffusion model in the plane, for the verbs that write samples and results.
TINY: dict[str, Any] = {
    "base": "spiral.yaml",
    "shared": {
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
        "data": {
            "init_args": {"sizes": {"train": 32, "val": 8, "test": 8}, "batch_size": 8, "std": 0.0}
        },
    },
    "blocks": {
        "mdm": {
            "model": {
                "init_args": {
                    "denoiser": {"init_args": {"net": {"init_args": {"width": 8, "layers": 1}}}},
                    "sampler": {"init_args": {"steps": 2}}, "val_samples": 4,
                },
            },
            "trainer": {"max_steps": 2, "val_check_interval": 2},
        },
        "generation": {"model": {"init_args": {"sampler": {"init_args": {"steps": 2}}}}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    r"""A folder with a trained model of points in the plane."""
    folder = tmp_path_factory.mktemp("spiral")
    for name in ("trainer.yaml", "spiral.yaml"):
        write(folder / name, (CONFIGS / name).read_text())
    write(folder / "tiny.yaml", TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "-c", "tiny.yaml::diffusion"]) is None
    return folder


@pytest.fixture
def spiral(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


PREDICT = ["predict", "-c", "tiny.yaml::diffusion", *RESUME]


def test_prediction_does_not_replace_data_nor_samples(
    spiral: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    data = "{class_path: mdm.SampleWriter, init_args: {file: data/spiral.h5}}"
    assert main([*PREDICT, f"--trainer.callbacks+={data}"]) == 1
    assert "data/spiral.h5 is there already" in capsys.readouterr().err
    assert contents() == before

    samples = next(Path("runs").rglob("checkpoints")).with_name("samples.h5")
    argv = [*PREDICT, "--trainer.callbacks+=mdm.SampleWriter"]
    assert main(argv) is None
    before = contents()
    assert main(argv) == 1
    assert (
        f"{samples} is there already: move it away, or give --replace" in capsys.readouterr().err
    )
    assert contents() == before
    samples.write_bytes(b"")
    assert main([*argv, "--replace"]) is None
    with h5py.File(samples) as file:
        assert file["train/y"].shape == (32, 2, 1, 1)


def test_test_does_not_replace_results(spiral: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["test", "-c", "tiny.yaml::generation/diffusion"]
    argv += ["--model.init_args.samples=4", "--model.init_args.batch_samples=4"]
    assert main(argv) is None
    results = next(Path("runs").rglob("results.json"))
    before = contents()

    for option in ("--trainer.max_epochs=3", "--model.init_args.method=other"):
        assert main([*argv, option]) == 1
        assert "is there already" in capsys.readouterr().err
    assert contents() == before
    written = results.read_text()
    assert main([*argv, "--model.init_args.method=other", "--replace"]) is None
    assert results.read_text() != written and '"other"' in results.read_text()
    for name in ("fields.png", "fields.pt"):  # of an evaluation whose results are gone
        results.unlink(missing_ok=True)
        assert main(argv) == 1
        results.with_name(name).unlink()
    assert main(argv) is None
