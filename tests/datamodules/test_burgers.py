"""Fields of Burgers: simulated from their key, and in keeping with their constraint."""

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from constraints import Burgers
from datamodules import BurgersData, FieldData


# simulation
@pytest.mark.parametrize("scheme", ["euler", "crank_nicolson"])
def test_simulated_fields_satisfy_their_constraint(scheme: Any) -> None:
    n = 200 if scheme == "euler" else 10
    data = BurgersData(Burgers(scheme), file="", sizes={}, points=32, frames=32)
    x = data.simulate(n, seed=0)

    assert x.shape == (n, 1, 32, 32) and x.dtype == torch.float32
    assert data.constraint(x).max() <= 1e-6


@pytest.mark.parametrize("cut", [1, 3, 7])
def test_field_depends_on_seed_and_position_alone(cut: int) -> None:
    data = BurgersData(Burgers(), file="", sizes={})
    x = data.simulate(8, seed=1)

    assert torch.equal(x, torch.cat([data.simulate(cut, 1), data.simulate(8 - cut, 1, start=cut)]))
    assert not torch.isclose(x, data.simulate(8, seed=2)).flatten(1).all(dim=1).any()


def test_first_frame_is_one_step_from_a_normalised_initial_condition() -> None:
    class Still(Burgers):
        def step(self, u: Tensor) -> Tensor:
            return u

    x = BurgersData(Still(), file="", sizes={}, frames=2).simulate(50, seed=0)

    assert torch.equal(x[..., 0], x[..., 1])
    assert torch.equal(x.amin(dim=(1, 2, 3)), torch.zeros(50))
    assert torch.equal(x.amax(dim=(1, 2, 3)), torch.ones(50))
    # Matérn-3/2: neighbours at r = 2/63 correlate by (1 + a) exp(-a), a = sqrt(3) r / 0.2 = 0.275
    u = x[:, 0, :, 0]
    assert torch.corrcoef(torch.stack([u[:, 1:].flatten(), u[:, :-1].flatten()]))[0, 1] > 0.95


# the command line
def test_command_line_builds_it_and_refuses_a_misspelt_key() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FieldData, "data")
    args = ["--data=BurgersData", "--data.constraint=Burgers", "--data.file=a", "--data.sizes={}"]
    data = parser.instantiate_classes(parser.parse_args([*args, "--data.batch_size=3"])).data

    assert isinstance(data, BurgersData) and data.batch_size == 3
    with pytest.raises(ArgumentError, match="batchsize"):
        parser.parse_args([*args, "--data.batchsize=3"])
