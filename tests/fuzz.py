"""Coverage-guided fuzzing: any bytes are a model, or a ModelError in one line; and with a model the passes can work.

Run it with the interpreter that has bnfold, after `pip install atheris` (which has no wheel for every Python, so it is
not among the development dependencies):

    python tests/fuzz.py reader -max_total_time=60 FOLDER tests/fuzz_corpus

The first word picks the target: `reader`, or `passes`. Options are libFuzzer's. The first folder is where new inputs
are kept.
"""

import random
import sys
from collections.abc import Callable
from contextlib import nullcontext

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto

if __name__ == "__main__":
    try:
        import atheris
    except ImportError:
        sys.exit("SKIPPED: atheris is not installed: pip install atheris")
    coverage = atheris.instrument_imports(include=["bnfold"])
else:
    coverage = nullcontext()
with coverage:
    from bnfold.api import inspect, optimize
    from bnfold.errors import BnfoldError, ModelError, StatisticsError
    from bnfold.graph import Model
    from bnfold.onnxfile import read, to_proto


def reader(data: bytes) -> None:
    """Read, check the structure, and put the model together again: that, or a ModelError."""
    try:
        file = read(data)
        Model(file)
        to_proto(file)
    except ModelError as error:
        check_message(error)


def passes(data: bytes) -> None:
    """Inspect and optimize, and optimize what comes out: that, or a refusal.

    Not with a Slice: on dims that come out negative, onnx 1.23 and onnxruntime 1.32 abort the process.
    """
    if b"Slice" in data:
        return
    try:
        inspect(data)
        result = optimize(data, verify=False)
    except (ModelError, StatisticsError) as error:
        check_message(error)
        return
    optimize(result.model, verify=False)


def check_message(error: BnfoldError) -> None:
    if not str(error).isprintable():
        raise AssertionError(f"not one line that can be shown: {str(error)!r}") from error


TARGETS: dict[str, Callable[[bytes], None]] = {"reader": reader, "passes": passes}

# ---------------------------------------------------------------------- changes that keep the protobuf whole

NUMBERS = (0, 1, 2, 3, 4, -1, 7, 16, 127, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63))
TEXTS = (
    "", "x", "y", "w", "ai.onnx", "own", "Add", "BatchNormalization", "Concat", "Constant", "ConstantOfShape", "Conv",
    "ConvTranspose", "Div", "Dropout", "Expand", "Flatten", "Gemm", "Identity", "If", "Loop", "MatMul", "Mul", "Pad",
    "Reshape", "Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze", "axis", "axes", "epsilon", "group", "perm",
    "shape", "training_mode", "value",
)  # fmt: skip


def change(data: bytes, most: int, seed: int) -> bytes:
    """Every other time libFuzzer's change to the bytes; else one field of the protobuf changed, cleared or doubled."""
    dice = random.Random(seed)
    if dice.random() < 0.5:
        return bytes(atheris.Mutate(data, most))
    try:
        model = ModelProto.FromString(data)
    except DecodeError:
        return bytes(atheris.Mutate(data, most))
    for _ in range(dice.randint(1, 3)):
        change_field(model, dice)
    changed = model.SerializeToString()
    return changed if len(changed) <= most else data


def change_field(model: ModelProto, dice: random.Random) -> None:
    message: Message = model.graph if dice.random() < 0.8 else model
    while (inner := messages_in(message)) and dice.random() < 0.8:
        message = dice.choice(inner)
    field = dice.choice([*message.DESCRIPTOR.fields, *[field for field, _ in message.ListFields()] * 3])
    if dice.random() < 0.15:
        message.ClearField(field.name)
    elif not field.is_repeated:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, scalar(field, dice, texts_in(model)))
    else:
        change_list(message, field, dice, texts_in(model))


def change_list(message: Message, field: FieldDescriptor, dice: random.Random, texts: list[str]) -> None:
    items = getattr(message, field.name)
    index = dice.randrange(len(items)) if items else -1
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        what = dice.choice(["add", "double", "remove", "move"])
        if what == "add" or not items:
            items.add()
        elif what == "double":
            items.add().CopyFrom(items[index])
        elif what == "remove":
            del items[index]
        else:
            items.insert(dice.randrange(len(items)), items.pop(index))
        return
    new = scalar(field, dice, texts)
    if items and dice.random() < 0.6:
        items[index] = new
    elif items and dice.random() < 0.5:
        del items[index]
    else:
        items.append(new)


def scalar(field: FieldDescriptor, dice: random.Random, texts: list[str]) -> object:
    if field.type == FieldDescriptor.TYPE_STRING:
        return dice.choice(texts)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return dice.randbytes(4 * dice.randrange(5))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return dice.choice([0.0, 1.0, -1.0, 1e-38, 1e38, float("nan"), float("inf")])
    if field.enum_type is not None:
        return dice.choice(field.enum_type.values).number
    low, high = (0, 2**64 - 1) if field.type == FieldDescriptor.TYPE_UINT64 else (-(2**63), 2**63 - 1)
    if field.type == FieldDescriptor.TYPE_INT32:
        low, high = -(2**31), 2**31 - 1
    return min(max(dice.choice(NUMBERS), low), high)


def messages_in(message: Message) -> list[Message]:
    found: list[Message] = []
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            found += value if field.is_repeated else [value]
    return found


def texts_in(model: ModelProto) -> list[str]:
    """Names that the model has, so that what is renamed may still be found, and words of ONNX."""
    nodes = model.graph.node
    names = [name for node in nodes for name in (*node.input, *node.output)]
    return [*filter(lambda name: isinstance(name, str), names), *TEXTS]


if __name__ == "__main__":
    target = TARGETS.get(sys.argv[1]) if sys.argv[1:] else None
    if target is None:
        sys.exit(f"say what to fuzz: {' or '.join(TARGETS)}")
    limits = ["-rss_limit_mb=2048", "-timeout=10"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[2:]], target, custom_mutator=change)
    atheris.Fuzz()
