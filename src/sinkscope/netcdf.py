"""arrays.nc, read so that a stranger's file can neither reach another file nor run on for ever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import InputError

if TYPE_CHECKING:
    import xarray

MOST_OBJECTS, DEEPEST = 20_000, 16
LARGEST = 4_000_000_000  # bytes of all arrays together, unpacked


def read_arrays(path: Path) -> xarray.DataTree:
    """All groups of a file, in memory. Raises InputError for what `check_arrays` refuses."""
    import xarray

    check_arrays(path)
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        return tree.load()


def check_arrays(path: Path) -> None:
    """Refuse a file that is more than plain arrays in plain groups.

    HDF5 can take data from other files (external storage and links, virtual data sets), point back
    at a group above (links), and name sizes that no memory holds.
    """
    import h5py

    seen: set[Any] = set()
    size = 0

    def walk(group: Any, depth: int) -> None:
        nonlocal size
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"{path} is refused: {name!r} in it links to somewhere else.")
            one = group[name]
            token = h5py.h5o.get_info(one.id).addr
            seen.add(token) if token not in seen else _refuse(path, name, "is linked twice")
            if len(seen) > MOST_OBJECTS or depth > DEEPEST:
                _refuse(path, name, "lies among too many groups")
            if isinstance(one, h5py.Group):
                walk(one, depth + 1)
            elif isinstance(one, h5py.Dataset):
                if one.id.get_create_plist().get_external_count() or one.is_virtual:
                    _refuse(path, name, "takes its data from another file")
                size += int(one.size or 0) * max(1, one.dtype.itemsize)
                if size > LARGEST:
                    _refuse(path, name, "is larger than any result")

    with h5py.File(path, "r") as file:
        seen.add(h5py.h5o.get_info(file.id).addr)
        walk(file, 0)


def _refuse(path: Path, name: str, what: str) -> None:
    raise InputError(f"{path} is refused: {name!r} in it {what}.")
