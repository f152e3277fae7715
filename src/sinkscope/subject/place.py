"""Where a model lies: a folder, a GGUF file, the Hub, or what comes along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.files import expanded
from sinkscope.subject import adapters, gguf
from sinkscope.subject.folder import bundled_model, refuse_bad_id
from sinkscope.subject.offline import hub_forbidden, is_offline

BUNDLED = "bundled"


@dataclass(frozen=True)
class Place:
    """Where a model lies.

    path    as a path; local: whether there is something there
    where   what transformers finds it by, and what is said of it in errors
    name    what it is called in results
    packed  the GGUF file that it is
    common  keyword arguments of everything that transformers reads of it
    """

    path: Path
    local: bool
    where: str
    name: str
    packed: gguf.GgufFile | None
    common: dict[str, Any]

    @property
    def file(self) -> Path | None:
        """What its hash is of; None for what lies on the Hub."""
        return self.packed.path if self.packed else self.path if self.local else None

    @property
    def said(self) -> str:
        """What is to be said of a revision that was asked of a folder, or ""."""
        revision = self.common["revision"]
        if not self.local or revision is None:
            return ""
        return f"What lies in a folder has no revision: {revision!r} was not looked for."

    @property
    def is_folder(self) -> bool:
        """Whether it is a local folder of weights that are not packed in a GGUF file."""
        return self.local and self.packed is None and self.path.is_dir()


def find_place(
    source: str | Path | None,
    revision: str | None,
    offline: bool,
    trust_remote_code: bool,
    gguf_file: str | None,
) -> Place:
    """What a source stands for; arguments as those of `load`."""
    bundled = source in (None, BUNDLED)
    path = bundled_model() if bundled else expanded(str(source))
    local = _exists(path)
    packed = gguf.find_gguf(path, gguf_file)
    if not local:
        refuse_bad_id(str(source))
    common = {
        "revision": revision,
        "local_files_only": local or offline or is_offline(),
        "trust_remote_code": trust_remote_code,
        **gguf.load_options(packed),
    }
    where: str = packed.where if packed else str(path) if local else str(source)
    name = BUNDLED if bundled else path.name if local else str(source)
    return Place(path, local, where, name, packed, common)


def adapter_at(place: Place) -> adapters.Adapter | None:
    """The adapter that a place holds instead of a model, fetched where it lies on the Hub."""
    if place.packed is not None:
        return None
    if place.local:
        return adapters.find_adapter(place.path) if place.path.is_dir() else None
    with hub_forbidden(place.common["local_files_only"]):
        folder = adapters.hub_adapter(place.where, place.common)
    return None if folder is None else adapters.find_adapter(folder)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or one that no disk can hold
        return False


def refuse_two_places(device: str, device_map: Any, stream: bool, tensor_parallel: bool) -> None:
    """Raise InputError for a model that is to lie in two places, or in none."""
    asked = {"--stream": stream, "--device-map": device_map, "--tensor-parallel": tensor_parallel}
    given = [name for name, value in asked.items() if value]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other: take one of them.")
    if str(device).partition(":")[0] == "meta":
        raise InputError("The meta device holds no numbers; name another with --device.")
