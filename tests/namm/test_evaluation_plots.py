"""Figures of fields: points, paths and channels."""

import torch
from matplotlib.figure import Figure

from constraints import Spiral
from namm.evaluation.plots import field_grid, residual_image


# figures
def test_points_are_drawn_in_the_plane() -> None:
    x = Spiral().curve(torch.linspace(0, 1, 50))[:, :, None, None]
    figure = field_grid({"data": x, "samples": x + 1}, Spiral())

    assert isinstance(figure, Figure) and len(figure.axes) == 2
    for panel, shown in zip(figure.axes, (x, x + 1), strict=True):
        drawn = torch.as_tensor(panel.collections[0].get_offsets().data)
        torch.testing.assert_close(drawn, shown.flatten(1).double(), rtol=0, atol=1e-6)
    residual = residual_image(Spiral(), x + 1)
    assert residual is not None
    assert figure.axes[1].get_xlabel().endswith(f"{float(residual.mean()):.1e}")


def test_paths_are_drawn_in_the_plane() -> None:
    x = torch.randn(3, 2, 64, 1)
    figure = field_grid({"data": x, "samples": 2 * x})

    for panel, shown in zip(figure.axes, (x, 2 * x), strict=True):
        lines = [line for line in panel.lines if len(line.get_xdata()) == 64]
        drawn = torch.stack([torch.as_tensor(line.get_xydata()) for line in lines])
        torch.testing.assert_close(drawn, shown[..., 0].mT.double(), rtol=0, atol=1e-6)


def test_channels_are_drawn_as_one_mosaic() -> None:
    x = torch.arange(8.0)[None, :, None, None].expand(1, 8, 4, 6)
    figure = field_grid({"x": x})

    drawn = torch.as_tensor(figure.axes[0].images[0].get_array().data)
    assert drawn.shape == (2 * 4, 4 * 6)
    # images are drawn from below, the first channel at the top left
    assert drawn[4:, ::6].unique(dim=0).tolist() == [[0, 1, 2, 3]]
    assert drawn[:4, ::6].unique(dim=0).tolist() == [[4, 5, 6, 7]]
