"""Names and paths of strangers: they stay text, and stay in their folder. Plug-ins that end the
process, and the rules of the parser."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datamodules import FieldData
from namm.cli.main import main
from namm.evaluation.results import code_span, escaped
from tests.attacks.planted import MODULE, RAN, assert_nothing_ran, plant_results, stranger
from tests.commands import FILES, PROBLEM, ROOT, TRAINER, edited, files, fit, write
from tests.test_plugin import CHECK, good, install, site

__all__ = ["site", "stranger"]

EVIL = [
    "a | b",
    "a\nb | c\n\n# heading",
    "<script>alert(1)</script>",
    "![x](http://planted/x.png)",
    "[x](javascript:alert(1))",
    "`</code><script>`",
    "\\| a",
    "\x1b]0;title\x07\x1b[31mred",
    "a\r\nb\u2028c",
    r"$\frac{$",
    "*bold* <b>",
]


def cells(line: str) -> list[str]:
    """Returns the cells of a line of a table, as a reader of Markdown splits it."""

    return re.split(r"(?<!\\)\|", line.replace("\\\\", ""))[1:-1]


WHERE = ["method", *(pytest.param(name, marks=pytest.mark.slow) for name in ("task", "note"))]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("where", WHERE)
def test_name_stays_one_cell_of_text_in_the_report(
    where: str, name: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_results(Path("runs/a/test"), **{where: name})
    assert main(["report", "runs/a"]) is None

    report = Path("runs/a/report.md").read_text("utf-8")
    for text in (report, capsys.readouterr().out):
        assert not re.search(r"<|(?<!\\)[\[`]|[\x00-\x09\x0b-\x1f\x7f\u2028]", text)
    assert "\n#" not in report
    lines = [line for line in report.splitlines() if line.startswith("|")]
    assert len(lines) == 3 and len({len(cells(line)) for line in lines}) == 1
    results = json.loads(Path("runs/a/test/results.json").read_text())
    kept = {**results["rows"][0], "note": results["notes"][0]}
    assert kept[where] == name  # the data stay as they are


def test_escaped_names_are_those_of_before_if_they_are_plain() -> None:
    for name in ("DM, then f(g(.))", "LGD-MC(10), published", "fields 1 to 7", "mdm_finetuned"):
        assert escaped(name) == name
    assert code_span("a`b\nc") == "`a'b c`"


def test_card_takes_names_as_code(stranger: Path) -> None:
    assert fit("namm", "--trainer.max_steps=1") is None
    config = Path("runs/toy/namm/config.yaml")
    text = config.read_text().replace("datamodules.BurgersData", "'`<script>`'")
    config.write_text(text)
    Path("runs/toy/report.md").write_text("| generation |\n| --- |\n| <script> |\n")
    assert main(["ship", "runs/toy", "toy"]) is None

    card = Path("toy/README.md").read_text()
    assert "`'<script>'`" in card and "| &lt;script> |" in card


# paths
OUTSIDE: list[Any] = ["../../../X", "/tmp/planted-X"]
OUTSIDE += [pytest.param(name, marks=pytest.mark.slow) for name in ("../X", "a/../../X")]


@pytest.mark.parametrize("command", ["run", "dry run", "fit", "option"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_stage_that_leaves_its_folder_is_refused(
    name: str, command: str, tmp_path: Path, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = tmp_path / "one" / "two" / "three"
    inner.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inner)
        write("trainer.yaml", edited(TRAINER, "trainer.logger", True))
        write("problem.yaml", PROBLEM)
        write("mine.yaml", {"shared": {**PROBLEM}, "stages": {name: {"verb": "fit"}}})
        before = {*tmp_path.parent.rglob("*")}
        argv = {
            "run": ["run", "mine.yaml"],
            "dry run": ["run", "mine.yaml", "--dry-run"],
            "fit": ["fit", "-c", f"mine.yaml::{name}", "--trainer.accelerator=cpu"],
            "option": ["fit", *FILES, "--trainer.logger=TensorBoardLogger",
                       "--trainer.logger.save_dir=runs", "--trainer.logger.name=toy",
                       f"--trainer.logger.version={name}"],
        }[command]  # fmt: skip
        assert main(argv) in (1, 2)
        assert "leads out of" in capsys.readouterr().err
        assert {*tmp_path.parent.rglob("*")} == before
    assert not Path("/tmp/planted-X").exists()


@pytest.mark.parametrize("name", ["", "/checkpoints", "/config.yaml"])
def test_link_out_of_the_run_folder_is_refused(
    name: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = f"runs/toy/a{name}"
    target = Path("elsewhere")
    if link.endswith(".yaml"):
        target.write_text("of another")
    else:
        target.mkdir()
    Path(link).parent.mkdir(parents=True)
    Path(link).symlink_to(target.resolve())

    assert fit("a") == 1
    assert f"{link} leads out of" in capsys.readouterr().err
    assert target.is_file() or not any(target.iterdir())
    assert not target.is_file() or target.read_text() == "of another"


def test_link_of_a_stage_is_refused_by_run(
    stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine.yaml", {"shared": {**PROBLEM}, "stages": {"a": {"verb": "fit"}}})
    Path("elsewhere").mkdir()
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/a").symlink_to(Path("elsewhere").resolve())

    assert main(["run", "mine.yaml"]) == 1
    assert "leads out of" in capsys.readouterr().err
    assert not any(Path("elsewhere").iterdir())


@pytest.mark.parametrize("name", ["results.json", "report.md", "report.png"])
def test_report_is_not_written_through_a_link(
    name: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_results(Path("runs/a/test"))
    Path("other").write_text("of another")
    Path("runs/a", name).symlink_to(Path("other").resolve())
    before = files()
    assert main(["report", "runs/a"]) == 1
    assert "leads out of" in capsys.readouterr().err
    assert files() == before


def test_folder_of_all_runs_may_be_a_link(stranger: Path) -> None:
    Path("disk").mkdir()
    Path("runs").symlink_to(Path("disk").resolve())
    assert fit("a", "--trainer.max_steps=1") is None
    assert Path("disk/toy/a/checkpoints/last.ckpt").exists()


# plug-ins
ENDING = {
    "exit": "import sys\nsys.exit(0)\n",
    "exit without a code": "raise SystemExit\n",
    "quit": "quit()\n",
    "generator": "raise GeneratorExit\n",
    "own": "class Stop(BaseException): pass\nraise Stop('now')\n",
}


@pytest.mark.parametrize("name", ENDING)
def test_plugin_that_ends_the_process_is_left_out(
    name: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "leaning-tower", "tilt", "broken:Tilted", ENDING[name])

    assert main(CHECK) is None
    streams = capsys.readouterr()
    assert "Burgers passes." in streams.out
    start = "namm: the plug-in 'tilt' (broken:Tilted) of the package 'leaning-tower' is left out: "
    assert streams.err.startswith(start) and streams.err.count("\n") == 1
    assert main(["check", "Tilted", "--shape=[1,4,4]"]) == 2


def test_plugin_that_is_interrupted_stops_the_command(site: Path) -> None:
    install(site, "leaning-tower", "tilt", "broken:Tilted", "raise KeyboardInterrupt\n")
    assert main(CHECK) == 130


def test_package_that_lies_in_the_working_directory_is_no_plugin(
    stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(stranger, "stray", "rule", "stray:Rule", MODULE)
    assert main(CHECK) is None
    assert capsys.readouterr().err == ""
    assert_nothing_ran()


def test_class_of_an_installed_plugin_may_stand_in_results(site: Path) -> None:
    install(site, "balance", "poise", "balance:Counterpoise", good("Counterpoise"))
    plant_results(Path("runs/a/test"), {"class_path": "balance.Counterpoise"})
    assert main(["report", "runs/a"]) is None


@pytest.mark.parametrize("verb", ["fit", "check"])
def test_module_that_ends_the_process_is_no_success(
    verb: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("ending.py", ENDING["exit"])
    argv = ["fit", *FILES, "--model.constraint=ending.Rule"]
    assert main(argv if verb == "fit" else ["check", "ending.Rule", "--shape=[1,4]"]) == 1
    assert "ending.py" in capsys.readouterr().err


def test_data_module_is_not_built_from_a_checkpoint(stranger: Path) -> None:
    with pytest.raises(ValueError, match="FieldData"):
        FieldData.load_from_checkpoint("a.ckpt")


@pytest.mark.slow  # imports the packages anew
@pytest.mark.parametrize("start", ["import namm; namm.Mirror", "import mdm", "import inverse"])
def test_parser_denies_functions_without_the_command_line(start: str, stranger: Path) -> None:
    code = (
        f"{start}\nfrom collections.abc import Callable\nfrom jsonargparse import ArgumentParser\n"
        "parser = ArgumentParser(exit_on_error=False)\n"
        "parser.add_argument('--call', type=Callable)\n"
        f"parser.parse_args(['--call=os.system']).call('touch {RAN}')\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 1 and "Importing 'os.system' is not allowed" in run.stderr
    assert not RAN.exists()
