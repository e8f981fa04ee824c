r"""Fields from elsewhere, to be solved for and never trained on.

Simulated fields do not show the mistakes of their simulation: a wrong sign in the solver is in the
training data, in the constraint and in the test data alike. Fields that others have made are the
independent check.
"""

__all__ = ["ReferenceData"]

from constraints import Constraint, InputError, Natural, PositiveInt

from .base import FieldData
from .dataset import FieldDataset


class ReferenceData(FieldData):
    r"""Creates test data from the split `test` of a file that is taken as it is, in its order.

    There is nothing to train on, and no hash: a checkpoint notes the hash of its training data,
    and these fields are no training data. With the few fields of such a file, the guards of a
    distance compare samples with the fields that were measured, and not with a population.

    Arguments:
        constraint: The constraint that the fields satisfy.
        file: The file of the fields, of schema `namm-field/1`.
        batch_size: The number of fields in a batch, of each process.
        num_workers: The number of processes that read fields; with 0 this process reads them.

    Raises:
        InputError: If the file is missing or does not fit the constraint, or if the stage is no
            test.
    """

    def __init__(
        self,
        constraint: Constraint,
        file: str,
        batch_size: PositiveInt = 4,
        num_workers: Natural = 0,
    ) -> None:
        super().__init__(constraint, file, batch_size=batch_size, num_workers=num_workers)

    def setup(self, stage: str) -> None:
        r"""Opens the fields, and checks that they fit the constraint.

        Arguments:
            stage: `test`.
        """
        if stage != "test":
            raise InputError(f"ReferenceData is for `test` alone: give other data to `{stage}`.")
        self.check(self.constraint)
        self.fields = {"test": FieldDataset(self.file, "test")}
        self.shape = self.fields["test"].shape
