r"""The files that hold fields: HDF5 of the schema `namm-field/1`.

A file holds one dataset `/{split}/x` of shape `(N, C, *S)` for each split, float32 and contiguous,
so that a field is one short read; the grid as `/coords/{axis}`, with units; and, as attributes of
the root, the description of the fields: `problem`, `axes`, `channels`, `boundary` (per axis),
`parameters`, `solver`, `units`, `seed` (-1 if this project did not simulate them), `data_floor`
(the largest distance to the constraint among the fields), `source` and `sha256`. Structured values
are JSON.
"""

__all__ = [
    "SCHEMA",
    "check_finite",
    "check_fits",
    "compare",
    "hash_fields",
    "open_fields",
    "read_attributes",
    "read_shape",
    "split_names",
    "write_fields",
]

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from constraints import Constraint, InputError, whole_hdf5

from .hdf5 import open_fields

SCHEMA = "namm-field/1"
CHUNK = 256

Fields = Tensor | np.ndarray | tuple[int, Iterable[Tensor | np.ndarray]]


def write_fields(
    path: str | Path,
    splits: Mapping[str, Fields],
    attributes: Mapping[str, Any],
    coords: Mapping[str, tuple[Sequence[float] | np.ndarray, str]],
) -> None:
    r"""Writes a file of fields. It appears under its name once it is complete, or not at all; the
    same fields, attributes and coordinates give the same bytes.

    Arguments:
        path: The file, which is replaced if it exists. Missing folders are made.
        splits: The fields of each split, a tensor or an array of shape `(N, C, *S)`; or N and an
            iterable over chunks of them, which need not fit in memory together.
        attributes: The attributes, to which `schema` and `sha256` are added. They are read last,
            so that the iterables may still fill in their own measurements.
        coords: The coordinates along each axis, and their units.

    Raises:
        InputError: If the file cannot be written there, if an attribute is no number, text, list
            or mapping, or if fields are not finite numbers.
    """
    try:
        with whole_hdf5(path) as file:
            sha256 = _write_splits(file, splits)
            for axis, (values, units) in coords.items():
                data = file.create_dataset(f"coords/{axis}", data=np.asarray(values, "<f8"))
                data.attrs["units"] = units
            own = {"schema": SCHEMA, "sha256": sha256}
            for key, value in sorted({**attributes, **own}.items()):
                file.attrs[key] = encode(key, value)
    except OSError as error:
        advice = "name a file in a folder that may be written to"
        raise InputError(f"'{path}' cannot be written ({error}): {advice}.") from error


def encode(key: str, value: Any) -> Any:
    r"""Returns an attribute as HDF5 keeps it: lists and mappings as JSON, with numbers of NumPy as
    plain numbers.

    Raises:
        InputError: If a part of the attribute is none of these.
    """

    def plain(part: Any) -> Any:
        if isinstance(part, np.generic | np.ndarray):
            return part.tolist()
        kind = type(part).__name__
        raise InputError(
            f"The attribute '{key}' has a {kind}: give numbers, texts and lists of these."
        )

    value = plain(value) if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(value, str | int | float):
        return value
    return (
        json.dumps(value, default=plain)
        if isinstance(value, dict | list | tuple)
        else plain(value)
    )


def _write_splits(file: h5py.File, splits: Mapping[str, Fields]) -> str:
    digest = hashlib.sha256()
    for split in sorted(splits):
        fields = splits[split]
        n, chunks = fields if isinstance(fields, tuple) else (len(fields), [fields])
        row = 0
        for chunk in chunks:
            array = chunk.detach().cpu().numpy() if isinstance(chunk, Tensor) else chunk
            x = check_numbers(array, split)
            data = file.require_dataset(f"{split}/x", shape=(n, *x.shape[1:]), dtype="<f4")
            data[row : row + len(x)] = x
            digest.update(x.tobytes())
            row += len(x)
        if row != n:
            raise InputError(f"Split '{split}' was to have {n} fields, but {row} came.")
    return digest.hexdigest()


def check_numbers(array: Any, split: str) -> np.ndarray:
    r"""Returns fields as float32, or refuses fields that are not finite numbers `(N, C, *S)`."""
    x = np.asarray(array)
    real = x.dtype.kind in "biuf" and x.ndim > 1 and len(x) > 0
    if not (real and np.isfinite(x := np.ascontiguousarray(x, dtype="<f4")).all()):
        got = f"{x.dtype} of shape {x.shape}" + (", some not finite" if real else "")
        raise InputError(f"The fields of split '{split}' must be numbers (N, C, *S), got {got}.")
    return x


def split_names(file: h5py.File) -> list[str]:
    r"""Returns the names of the splits of an open file, sorted."""
    return sorted(
        name
        for name in file
        if name != "coords" and isinstance(file.get(f"{name}/x"), h5py.Dataset)
    )


def read_attributes(path: str | Path) -> dict[str, Any]:
    r"""Returns the attributes of a file, structured ones decoded."""
    with open_fields(path) as file:
        return {key: _decode(value) for key, value in file.attrs.items()}


def read_shape(path: str | Path) -> tuple[int, ...]:
    r"""Returns the shape `(C, *S)` of a field of a file.

    Raises:
        InputError: If the file holds no fields.
    """
    with open_fields(path) as file:
        if not (names := split_names(file)):
            raise InputError(f"'{path}' holds no fields: it has no dataset such as /train/x.")
        return tuple(file[f"{names[0]}/x"].shape[1:])


def _decode(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:  # plain text that happens to start with a bracket
            return value
    return value


def hash_fields(path: str | Path) -> str:
    r"""Returns the SHA-256 of the fields of all splits, in the order of their names: computed
    where the fields take less than 2 GB or the file has no hash, and else the hash of the file.

    Raises:
        InputError: If the file says another hash.
    """
    with open_fields(path) as file:
        said = str(_decode(file.attrs["sha256"])) if "sha256" in file.attrs else None
        names = split_names(file)
        if said is not None and sum(file[f"{name}/x"].nbytes for name in names) > 2 * 10**9:
            return said
        digest = hashlib.sha256()
        for name in names:
            data = file[f"{name}/x"]
            for row in range(0, len(data), CHUNK):
                digest.update(data[row : row + CHUNK].astype("<f4").tobytes())
    found = digest.hexdigest()
    if said not in (None, found):
        hashes = f"its fields have the hash {found[:12]}, but it says {said[:12]}"
        raise InputError(f"'{path}' was changed, {hashes}: write the fields again.")
    return found


def compare(path: str | Path, found: Any, wanted: Mapping[str, Any], remedy: str) -> None:
    r"""Raises an `InputError` that names both values where the attributes of a file are not the
    wanted attributes. Numbers may differ by a relative 1e-9; other attributes may be anything.

    Arguments:
        path: The file.
        found: Its attributes.
        wanted: The attributes it should have.
        remedy: The advice for the user.
    """
    for key, value in wanted.items():
        _compare(path, key, found.get(key), value, remedy)


def _compare(path: str | Path, name: str, found: Any, wanted: Any, remedy: str) -> None:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            _compare(path, f"{name}.{key}", found.get(key), value, remedy)
        return
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        same = math.isclose(found, wanted, rel_tol=1e-9)
    else:
        same = found == (list(wanted) if isinstance(wanted, tuple) else wanted)
    if not same:
        says = "does not say its" if found is None else f"has {found!r} as its"
        raise InputError(f"'{path}' {says} {name}, but {wanted!r} is wanted: {remedy}.")


def check_fits(path: str | Path, constraint: Constraint) -> None:
    r"""Checks that the fields of a file are of the kind that a constraint judges. The fields
    themselves are not read; see `check_finite`.

    Raises:
        InputError: If the file is not of this schema, if its attributes are not those the
            constraint names, or if the constraint cannot judge fields of its shape.
    """
    attributes = read_attributes(path)
    compare(path, attributes, {"schema": SCHEMA}, "write it with datamodules.write_fields")
    remedy = f"give {type(constraint).__name__} the values of the file, or another file"
    compare(path, attributes, constraint.attributes(), remedy)
    read_shape(path)
    with open_fields(path) as file:
        shapes = {split: file[f"{split}/x"].shape for split in split_names(file)}
        for split, shape in shapes.items():
            data = file[f"{split}/x"]
            if data.dtype.kind != "f" or len(shape) < 3 or shape[0] == 0:
                found = f"{data.dtype} of shape {shape} in split '{split}'"
                raise InputError(f"'{path}' has {found}, give floats (N, C, *S) with N > 0.")
            for length, axis in zip(shape[2:], attributes.get("axes", []), strict=False):
                coords = file.get(f"coords/{axis}")
                if coords is not None and len(coords) != length:
                    found = f"fields of shape {shape[1:]} and {len(coords)} coordinates"
                    raise InputError(f"'{path}' has {found} along {axis}: give as many of both.")
            other, wanted = next(iter(shapes.items()))
            if shape[1:] != wanted[1:]:
                found = f"{shape[1:]} in split '{split}', but {wanted[1:]} in split '{other}'"
                raise InputError(f"'{path}' has fields of shape {found}: give one shape a file.")
            try:
                constraint.check_shape(torch.from_numpy(data[:1].astype("f4")))
            except InputError as error:
                raise InputError(f"'{path}', split '{split}': {error}") from error


def check_finite(x: Tensor, rows: Sequence[int], path: str | Path, name: str) -> None:
    r"""Raises an `InputError` that names the earliest field which is not finite.

    Arguments:
        x: The fields, with shape `(B, *)`.
        rows: Their B positions in the dataset.
        path: The file they came from.
        name: The dataset they came from, such as `train/x`.
    """
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bad.any():
        row = min(rows[i] for i in bad.nonzero().flatten().tolist())
        raise InputError(f"'{path}' has NaN or inf in field {row} of /{name}: leave it out.")
