"""The classes have the properties that the protocols of other packages ask for, by mypy."""

import textwrap

import pytest
from mypy import api

FITTING = """
    from datamodules import FieldData, SimulatedData
    from mdm import MDM, Generation
    from inverse import Inverse
    from namm import NAMM, Finetune
    from namm.cli.fill import Data
    from namm.training.provenance import JudgedData, Sourced, TrainingData

    def of_fields(data: FieldData) -> tuple[TrainingData, JudgedData, Data]:
        return data, data, data

    def of_simulation(data: SimulatedData) -> tuple[TrainingData, JudgedData, Data]:
        return data, data, data

    def of_stages(a: NAMM, b: MDM, c: Finetune, d: Generation, e: Inverse) -> list[Sourced]:
        return [a, b, c, d, e]
"""
OTHER = """
    from lightning import LightningDataModule
    from namm.training.provenance import JudgedData

    def of_strangers(data: LightningDataModule) -> JudgedData:
        return data
"""


def judge(source: str) -> tuple[str, int]:
    """The report and the exit code of mypy on a program, without the packages of the settings."""
    options = ["--config-file=", "--ignore-missing-imports"]
    report, _, code = api.run([*options, "-c", textwrap.dedent(source)])
    return report, code


@pytest.mark.slow  # half a minute without mypy's cache
def test_classes_fit_protocols() -> None:
    report, code = judge(FITTING)
    assert code == 0, report
    report, code = judge(OTHER)
    assert code == 1 and 'expected "JudgedData"' in report
