r"""The part of `benchmarks.data` that runs jax-cfd, in an environment of its own.

Reads lines `BATCH FRAMES FILE` from the standard input, advances the first states of `start.npy`
in the folder given, and answers each with the seconds it took, compilation excluded. Where a file
is named, the states are written to it. At first it says which versions it runs.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SUBSTEPS, DT = 20, 0.01


def main() -> None:
    # jax-cfd calls it by the name it had once
    jax.tree_map = jax.tree_util.tree_map
    from jax_cfd.base import boundaries, equations, forcings, funcutils, grids

    folder = Path(sys.argv[1])
    start = np.load(folder / "start.npy")
    points = start.shape[-1]
    grid = grids.Grid((points, points), domain=((0, 2 * np.pi),) * 2)
    walls = boundaries.periodic_boundary_conditions(2)
    force = forcings.simple_turbulence_forcing(
        grid,
        constant_magnitude=1.0,
        constant_wavenumber=4,
        linear_coefficient=-0.1,
        forcing_type="kolmogorov",
    )
    step = equations.semi_implicit_navier_stokes(
        density=1.0, viscosity=1e-3, dt=DT, grid=grid, forcing=force
    )

    def advance(frames: int) -> Any:
        repeated = funcutils.repeated(step, SUBSTEPS * frames)

        def one(uv: Any) -> Any:
            arrays = [grids.GridArray(uv[i], grid.cell_faces[i], grid) for i in range(2)]
            after = repeated(tuple(grids.GridVariable(a, walls) for a in arrays))
            return jnp.stack([velocity.data for velocity in after])

        return jax.jit(jax.vmap(one))

    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "jax-cfd")}
    print(json.dumps(versions), flush=True)
    compiled = {}
    for line in sys.stdin:
        batch, frames, *file = line.split()
        batch, frames = int(batch), int(frames)
        uv = jnp.asarray(start[:batch])
        if (batch, frames) not in compiled:
            compiled[batch, frames] = advance(frames).lower(uv).compile()
            compiled[batch, frames](uv).block_until_ready()
        begin = time.perf_counter()
        after = compiled[batch, frames](uv).block_until_ready()
        seconds = time.perf_counter() - begin
        if file:
            np.save(folder / file[0], np.asarray(after))
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
