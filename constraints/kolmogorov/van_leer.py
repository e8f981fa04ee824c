r"""A step of two-dimensional incompressible flow, on a periodic staggered grid of square cells.

The flux of a component c across a face of its own control volume is upwind, with the correction of
Lax and Wendroff as far as the limiter of van Leer allows. With the Courant number C at the face
between the cells 0 and 1, and :math:`b_i = c_{i + 1} - c_i`,

.. math::
    \frac{\Delta t}{h} F = C^+ \left(c_0 + (1 - C^+) H_0\right)
    + C^- \left(c_1 - (1 + C^-) H_1\right), \quad
    H_i = \frac{(b_{i - 1} b_i)^+}{b_{i - 1} + b_i}.

The limiter is the harmonic mean H, which is 0 where the product is 0. It belongs to a cell and
serves the faces on both sides. Diffusion is one more flux. The step is of forward Euler and ends
with a projection to zero divergence. The projection leaves a velocity without divergence as it is,
so that only the change by the flux has to be projected. The projected change is the curl of a
stream function, which comes out of the Poisson problem with its halo, since Fourier modes go on
beyond the grid.

References:
    Towards the ultimate conservative difference scheme. II (van Leer, 1974)
    https://doi.org/10.1016/0021-9991(74)90019-9
"""

__all__ = ["Stepper"]

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .spectral import inverse_laplacian, modes, project


class Stepper:
    r"""Creates the solver for states of one shape, in units in which the sum of two neighbouring
    velocities is a Courant number.

    Its arrays are flat and hold v and u, in this order, with a halo of copies, so that the next
    cell in y is 1 number further and the next cell in x a row further: a pair of windows shows the
    neighbours of both components along both axes, with shape `(B, 2, 2, N)`.

    With `keep`, the first step leaves a program of operations on its own arrays, which all later
    steps repeat. That is faster, and cannot be differentiated.

    Arguments:
        template: Any states, with shape `(B, 2, X, Y)`.
        diffusion: The viscosity, times the time of a step over the area of a cell.
        decay: The factor by which drag changes a velocity in a step.
        force: The change of u by the force in a step, with shape `(Y,)`.
        keep: Whether to keep the arrays.
    """

    def __init__(
        self, template: Tensor, diffusion: float, decay: float, force: Tensor, keep: bool = False
    ) -> None:
        n, _, rows, columns = template.shape
        dtype, device = template.dtype, template.device
        self.diffusion, self.decay = diffusion, decay
        # row i of the halo is row i - 2 of the grid, column j is column j - 3
        self.rows, self.width = rows, columns + 6
        x = torch.arange(-3, rows + 4, device=device) % rows
        y = torch.arange(-3, columns + 3, device=device) % columns
        self.x, self.y = x[1:, None], y
        row = force.to(template)[y]
        self.force = torch.stack([torch.zeros_like(row), row]).repeat(1, rows + 6)
        left, right = modes(rows, dtype, device), modes(columns, dtype, device)
        factors = left.T, right, left[x], right[y].T.contiguous()
        self.factors = [factor.expand(n, *factor.shape) for factor in factors]
        self.inverse = inverse_laplacian(rows, columns, dtype, device)
        self.signs = template.new_tensor([[-1.0], [1.0]])
        self.tiny = template.new_tensor(torch.finfo(dtype).tiny)
        self.keep = keep
        self.state: Tensor | None = None
        self.program: list[Callable[[], Tensor]] = []

    def __call__(self, uv: Tensor, steps: int) -> Tensor:
        r"""Returns the states after a number of steps.

        Arguments:
            uv: The states, with shape `(B, 2, X, Y)`.
            steps: The number of steps.
        """
        w, v = self._extend(uv), self._extend(project(uv))
        if self.keep:
            self.state = w = w if self.state is None else self.state.copy_(w)
        for _ in range(steps):
            swirl = self._repeat() if self.program else self._swirl(self._flux(w))
            # from the second step on, a state is its own projection
            w = v = torch.add(self.force, v, alpha=self.decay, out=self.state)
            w.addcmul_(self.signs, swirl)
        state: Tensor = w.unflatten(2, (-1, self.width))[:, :, 2:-4, 3:-3]
        return state.flip(1)

    def _extend(self, uv: Tensor) -> Tensor:
        return uv.flip(1)[:, :, self.x, self.y].flatten(2)

    def _flux(self, w: Tensor) -> Tensor:
        r"""Returns the flux of both components along both axes, `(B, 2, 2, N)`."""
        do, width, size = self._do, self.width, w.shape[2]
        faces, cells, inner = ((self.rows + k) * width for k in (5, 4, 3))
        further = _windows(w, 1, faces, width - 1)
        slope = do(torch.sub, further, w[:, :, None, :faces])
        before, after = slope[..., :cells], self._next(slope, cells)
        both = do(torch.add, before, after)
        product = do(torch.mul, before, after)
        product = do(torch.clamp_min, product, 0, into=product)
        # over the square of a sum, which is zero only where the product is
        square = do(torch.addcmul, self.tiny, both, both)
        ratio = do(torch.div, product, square, into=product)
        mean = do(torch.mul, ratio, both, into=both)
        # velocities at the faces across them, and their neighbours along the axis of a component
        across = _windows(w.flatten(1), 1, inner + width, size + width - 1)
        beyond = _windows(across, 1, inner, width - 1).transpose(1, 2)
        courant = do(torch.add, across[:, None, :, :inner], beyond)
        slope = after[..., :inner]
        flux = do(torch.mul, courant, further[..., :inner])
        plus = do(torch.clamp_min, courant, 0)
        minus = do(torch.sub, courant, plus, into=courant)
        flux = do(torch.addcmul, flux, minus, slope, into=flux)
        plus = do(torch.addcmul, plus, plus, plus, value=-1, into=plus)
        flux = do(torch.addcmul, flux, plus, mean[..., :inner], into=flux)
        minus = do(torch.addcmul, minus, minus, minus, into=minus)
        flux = do(torch.addcmul, flux, minus, self._next(mean, inner), value=-1, into=flux)
        return do(torch.sub, flux, slope, alpha=self.diffusion, into=flux)

    def _swirl(self, flux: Tensor) -> Tensor:
        r"""Returns the change of -v and u by a flux without its pressure, `(B, 2, N)`."""
        do, width, size = self._do, self.width, (self.rows + 1) * self.width
        y, x = flux.unbind(2)
        change = do(torch.sub, x[..., width : width + size], x[..., :size])
        last = 2 * width - 1
        change = do(torch.add, change, y[..., last : last + size], into=change)
        change = do(torch.sub, change, y[..., last - 1 : last - 1 + size], into=change)
        v, u = change.unflatten(2, (-1, width)).unbind(1)
        curl = do(torch.sub, v[:, 1:, 3:-3], v[:, :-1, 3:-3])
        curl = do(torch.sub, curl, u[:, :-1, 4:-2], into=curl)
        curl = do(torch.add, curl, u[:, :-1, 3:-3], into=curl)
        left, right, left_halo, right_halo = self.factors
        f = do(torch.bmm, do(torch.bmm, left, curl), right)
        f = do(torch.mul, f, self.inverse, into=f)
        stream = do(torch.bmm, do(torch.bmm, left_halo, f), right_halo).flatten(1)
        before = _windows(stream, 0, stream.shape[1] - width, width - 1)
        return do(torch.sub, stream[:, None, width:], before)

    def _next(self, f: Tensor, size: int) -> Tensor:
        return _windows(f.flatten(2), 1, size, f.shape[3] + self.width - 1)

    def _do(
        self,
        operation: Callable[..., Tensor],
        *inputs: Any,
        into: Tensor | None = None,
        **options: float,
    ) -> Tensor:
        if not self.keep:
            return operation(*inputs, **options)
        result = operation(*inputs, **options, out=into)
        self.program.append(partial(operation, *inputs, **options, out=result))
        return result

    def _repeat(self) -> Tensor:
        for operation in self.program:
            result = operation()
        return result


def _windows(f: Tensor, start: int, size: int, step: int) -> Tensor:
    r"""Returns a view of two windows of the last axis, a step apart, `(*, 2, size)`."""
    return f[..., start : start + step + size].unfold(-1, size, step)
