"""One of the models that are compared: what onnxruntime loads, and its structure, which is read once."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from onnx import ModelProto

from bnfold.equivalence.structure.scopes import Cutter
from bnfold.equivalence.structure.signature import Source, is_overridable
from bnfold.equivalence.structure.work import Work, work_of
from bnfold.onnxfile import OnnxFile, read


@dataclass(eq=False)
class GivenModel:
    """A model and what was read of it so far. `read_file`: its structure where the caller has read it, not edited.

    Raises ModelError where the structure is asked for and `source` is no sound ONNX file.
    """

    source: Source
    read_file: OnnxFile | None = None
    _indexes: dict[bool, Cutter] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: "GivenModel | OnnxFile | Source | str") -> "GivenModel":
        """`model`, as one of these."""
        if isinstance(model, GivenModel):
            return model
        if isinstance(model, OnnxFile):
            return cls(model.whole, model)
        return cls(model if isinstance(model, bytes) else Path(model))

    @cached_property
    def file(self) -> OnnxFile:
        """The structure, with the weights left in place."""
        return read(self.source) if self.read_file is None else self.read_file

    @property
    def structure(self) -> ModelProto:
        """The protobuf without the bytes of its weights."""
        return self.file.proto

    @cached_property
    def work(self) -> Work:
        """An estimate of what it takes to make a session of it and to run it."""
        return work_of(self.structure)

    def index(self, *, assume_constant_initializers: bool = False) -> Cutter:
        """The scopes of the model. `assume_constant_initializers`: no caller overrides one."""
        found = self._indexes.get(assume_constant_initializers)
        if found is None:
            found = Cutter(self.file, assume_constant_initializers=assume_constant_initializers)
            self._indexes[assume_constant_initializers] = found
        return found


def both_indexes(
    reference: GivenModel, candidate: GivenModel, *, assume_constant_initializers: bool
) -> tuple[Cutter, Cutter]:
    """The scopes of both. What the candidate alone lets callers override is constant: who calls the reference will not.

    `assume_constant_initializers`: nor does anybody else.
    """
    constants = assume_constant_initializers
    before = reference.index(assume_constant_initializers=constants)
    alone = is_overridable(candidate.structure) and not is_overridable(reference.structure)
    return before, candidate.index(assume_constant_initializers=constants or alone)
