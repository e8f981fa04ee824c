"""A class that an option exchanges keeps arguments of the class before, and the command says so."""

from pathlib import Path

import pytest

from tests.commands import PROBLEM, edited, fit, write
from tests.commands import problem as problem  # a fixture

MAP = "model.init_args.mirror.init_args.inverse_map"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ([f"--{MAP}=namm.ResNet"], "width, blocks"),
        ([f"--{MAP}=namm.ResNet", f"--{MAP}.init_args.width=2"], "blocks"),
        (["--model.mirror.inverse_map=ResNet", "--model.mirror.inverse_map.width=2"], "blocks"),
        ([f"--{MAP}=namm.ResNet", f"--{MAP}.width=2", f"--{MAP}.init_args.blocks=0"], ""),
        ([f"--{MAP}=namm.PatchNet"], ""),
        ([f"--{MAP}=PatchNet", "--trainer.max_steps=1"], ""),
    ],
)
def test_kept_arguments_are_named(
    options: list[str], kept: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        "problem.yaml", edited(PROBLEM, f"{MAP}.init_args", {"width": 2, "blocks": 1, "patch": 4})
    )
    with pytest.raises(SystemExit):
        fit("a", *options, "--print_config")
    notes = [row for row in capsys.readouterr().err.splitlines() if row.startswith("namm: note: ")]
    wanted = f"is now ResNet, and keeps {kept} of PatchNet"
    assert len(notes) == bool(kept) and all(wanted in note for note in notes)
