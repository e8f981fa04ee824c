"""A class that an option exchanges keeps arguments of the class before, with a note."""

from pathlib import Path

import pytest

from tests.commands import PROBLEM, edited, fit, write
from tests.commands import problem as problem  # a fixture

MAP = "model.init_args.mirror.init_args.inverse_map"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ([f"--{MAP}=namm.ResNet"], "width, blocks"),
        ([f"--{MAP}=namm.ResNet", f"--{MAP}.init_args.width=4"], "blocks"),
        (["--model.mirror.inverse_map=ResNet", "--model.mirror.inverse_map.width=4"], "blocks"),
        ([f"--{MAP}=namm.ResNet", f"--{MAP}.width=4", f"--{MAP}.init_args.blocks=0"], ""),
        ([f"--{MAP}=namm.PatchNet"], ""),
        ([f"--{MAP}=PatchNet"], ""),
    ],
)
def test_kept_arguments_are_named(
    options: list[str], kept: str, problem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"width": 8, "blocks": 1, "patch": 4}
    write("problem.yaml", edited(PROBLEM, f"{MAP}.init_args", arguments))
    assert fit("a", *options, "--trainer.max_steps=1") is None
    notes = [row for row in capsys.readouterr().err.splitlines() if row.startswith("namm: note: ")]
    wanted = f"is now ResNet, and keeps {kept} of PatchNet"
    assert len(notes) == bool(kept) and all(wanted in note for note in notes)
