r"""The names of the trainings of a problem, in their order."""

__all__ = ["STAGES"]

STAGES = ("namm", "mdm", "finetune", "dm")
