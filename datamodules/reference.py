r"""Fields from elsewhere, to be solved for and never trained on.

What a project simulates for itself says nothing of its own mistakes: a wrong sign in the solver is
in the training data, in the constraint and in the test data alike. Fields that others have made
are the independent check.
"""

__all__ = ["ReferenceData"]

from pathlib import Path

from torch.utils.data import DataLoader

from constraints import Constraint, InputError

from .dataset import FieldDataset
from .loaders import KeyedData
from .schema import check_fits


class ReferenceData(KeyedData):
    r"""Creates test data from the split `test` of a file that is taken as it is, in its order.

    There is nothing to train on, and no hash: a checkpoint notes the hash of what it was trained
    on, which these fields are not. With the few fields of such a file, the guards of a distance
    compare samples with the fields that were measured, and not with a population.

    Arguments:
        constraint: The constraint that the fields satisfy.
        file: The file of the fields, of schema `namm-field/1`.
        batch_size: The number of fields in a batch, of each process.
        num_workers: The number of processes that read fields; with 0 it is done by this one.

    Raises:
        InputError: If the file is missing or does not fit the constraint, or if anything else is
            to be done with it than to test.
    """

    def __init__(
        self, constraint: Constraint, file: str, batch_size: int = 4, num_workers: int = 0
    ) -> None:
        super().__init__(0, batch_size, num_workers)
        self.constraint = constraint
        self.file = file

    def setup(self, stage: str) -> None:
        r"""Opens the fields, and checks that they fit the constraint.

        Arguments:
            stage: `test`.
        """
        if stage != "test":
            raise InputError(
                f"ReferenceData is for `test` alone, and this is `{stage}`: give data to train "
                f"on, such as the data.yaml of the problem."
            )
        if not Path(self.file).is_file():
            raise InputError(
                f"There is no file '{self.file}' of reference fields, which are no part of this "
                f"project: name a file of schema namm-field/1 that has a split `test`, or test on "
                f"the simulated fields of the problem."
            )
        self.check(self.constraint)
        self.fields = FieldDataset(self.file, "test")
        self.shape = self.fields.shape

    def check(self, constraint: Constraint) -> None:
        r"""Checks that the fields are of the kind that another constraint judges.

        Arguments:
            constraint: The constraint.

        Raises:
            InputError: If they are not.
        """
        check_fits(self.file, constraint)

    def test_dataloader(self) -> DataLoader:
        return self.in_order(self.fields)
