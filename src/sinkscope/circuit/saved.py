"""A circuit read back from circuit.json, and put to the test on other prompts.

saved = sinkscope.load_circuit("run/circuit.json")
saved.units, saved.direction
sinkscope.verify(subject, prompts=prompts, circuit=saved.on(subject, prompts))
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from sinkscope.circuit.find import find_circuit
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.unit import Unit, unit_named
from sinkscope.errors import InputError
from sinkscope.files import expanded
from sinkscope.observe.stream import unit as unit_length
from sinkscope.schema.circuit import CircuitFile
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True, eq=False)
class SavedCircuit:
    """The units of a tested circuit, without the model.

    units      of the circuit, in the order of the file
    scores     in nats, of all units that were scored
    direction  u [d], unit length; None where P0 was not set apart
    file       everything else that circuit.json holds
    """

    units: tuple[Unit, ...]
    scores: dict[Unit, float]
    direction: torch.Tensor | None
    file: CircuitFile

    @property
    def reading_heads(self) -> list[tuple[int, int]]:
        """(block, head) of the sink heads it was found with."""
        return self.file.reading_heads

    def on(self, subject: Subject, prompts: Prompts) -> Circuit:
        """These writers and this direction as the circuit of these prompts, to be verified.

        What depends on the prompts (sink heads, ranking) is found on them. Raises InputError for
        another model: other weights, or a unit that it does not have.
        """
        if subject.identity["weights_sha256"] != self.file.model.weights_sha256:
            raise InputError(f"the circuit is of {self.file.model.id}, which has other weights.")
        found = find_circuit(subject, prompts, untrained=False)
        u = found.direction if self.direction is None else self.direction
        return dataclasses.replace(found, writers=self.units, direction=u)


def load_circuit(path: str | Path) -> SavedCircuit:
    """Read circuit.json, or that of a run folder.

    Raises InputError, in one sentence, for a file that is missing, damaged or none of this format.
    """
    path = expanded(path)
    path = path / "circuit.json" if path.is_dir() else path
    try:
        file = CircuitFile.model_validate_json(path.read_bytes())
        units = {unit_named(name): node for name, node in file.units.items()}
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path} is no circuit file: {where}: {first['msg']}.") from None
    _check(path, file, list(units))
    direction = None if file.direction is None else torch.tensor(file.direction)
    return SavedCircuit(
        units=tuple(unit for unit, node in units.items() if node.in_graph),
        scores={unit: node.score for unit, node in units.items() if node.score is not None},
        direction=None if direction is None else unit_length(direction),
        file=file,
    )


def _check(path: Path, file: CircuitFile, units: list[Unit]) -> None:
    """Refuse what does not fit the sizes that the file itself names."""
    shape = file.cfg
    blocks = [unit.block for unit in units] + [block for block, _ in file.reading_heads]
    if any(block >= shape.n_layers for block in blocks):
        raise InputError(f"{path} names a block beyond its {shape.n_layers}.")
    if any(head >= shape.n_heads for _, head in file.reading_heads):
        raise InputError(f"{path} names a head beyond its {shape.n_heads} in a block.")
    if file.direction is None:
        return
    if len(file.direction) != shape.d_model:
        found = len(file.direction)
        raise InputError(f"{path} has a direction of {found} channels for {shape.d_model}.")
    if not any(file.direction):
        raise InputError(f"{path} has a direction that is zero everywhere.")
