"""The distribution: its wheel holds the five packages, its dependencies stay open ranges."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


PACKAGES = {"namm", "mdm", "constraints", "datamodules", "inverse"}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


DIST_INFO = f"{PROJECT['name']}-{PROJECT['version']}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    """The wheel, built offline by the build back end itself."""

    missing = sorted(name for name in [*PACKAGES, PROJECT["readme"]] if not (ROOT / name).exists())

    if missing:
        pytest.skip(f"The wheel cannot be built yet without {', '.join(missing)}.")

    path = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(path)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert build.returncode == 0, build.stderr

    (file,) = path.glob("*.whl")

    with ZipFile(file) as archive:
        yield archive


def test_wheel_holds_the_five_packages(wheel: ZipFile) -> None:
    assert {PurePosixPath(name).parts[0] for name in wheel.namelist()} == {*PACKAGES, DIST_INFO}


def test_wheel_holds_all_modules_and_nothing_else(wheel: ZipFile) -> None:
    packed = {name for name in wheel.namelist() if not name.startswith(DIST_INFO)}
    modules = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", "py.typed")
        for file in (ROOT / package).rglob(pattern)
    }

    assert packed == modules


def test_wheel_declares_the_console_script(wheel: ZipFile) -> None:
    entry_points = wheel.read(f"{DIST_INFO}/entry_points.txt").decode()

    assert "[console_scripts]\nnamm = namm.cli.main:main" in entry_points


def requirements() -> list[Requirement]:
    test = PROJECT["optional-dependencies"]["test"]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *test]]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_dependency_is_a_range_that_holds_the_tested_version(requirement: Requirement) -> None:
    constraints = (ROOT / "requirements" / "ci-constraints.txt").read_text("utf-8").splitlines()
    pins = [line.split("==") for line in constraints if "==" in line]
    tested = {canonicalize_name(name): version for name, version in pins}

    assert {specifier.operator for specifier in requirement.specifier} <= {">=", "<"}
    assert any(specifier.operator == ">=" for specifier in requirement.specifier)
    assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)])


def test_torchvision_is_absent() -> None:
    # A build of torchvision that does not match torch's breaks `import lightning`.
    assert find_spec("torchvision") is None
