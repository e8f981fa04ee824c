"""The benchmark of the counter: it runs, and it counts lonely galaxies."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import counter as benchmark
from constraints import Count, load_counter
from datamodules.galaxies import render
from tests.constraints.counters import SHIPPED, tiny_galaxies


# the benchmark
def test_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--counter", str(SHIPPED), "--out", str(tmp_path), "--images", "2"])
    results = json.loads((tmp_path / "results.json").read_text())

    assert results["counter"].keys() == benchmark.SPOILT.keys() == results["peaks"].keys()
    assert results["counter"]["clean"]["images"] == 18
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert "One galaxy less" in (tmp_path / "results.md").read_text()

    tiny_galaxies(tmp_path, Count(2, load_counter(str(SHIPPED)))).prepare_data()
    capsys.readouterr()
    argv = ["--counter", str(SHIPPED), "--samples", f"{tmp_path}/galaxies.h5", "--n", "2"]
    benchmark.main([*argv, "--out", str(tmp_path / "out")])
    scored = json.loads(capsys.readouterr().out)
    assert scored.keys() == {"train/x", "val/x", "test/x"}
    assert scored["train/x"]["counter"]["images"] == sum(scored["train/x"]["counts"].values()) == 8


def test_peaks_of_lonely_galaxies_are_counted() -> None:
    x = torch.zeros(1, 1, 64, 64)
    for k in range(3):
        sky = torch.tensor([[12.0 + 20 * k, 30.0, 5.0 + k, 2.0, 1.5, 0.3]])
        x[0, 0] += render(sky, torch.zeros(64, 64))

    assert benchmark.peaks(x).tolist() == [3.0]
