"""The fate of each normalization, and the words for it.

Every normalization of the input ends in exactly one `Decision`. One that stays carries a `Reason`: a stable code that
scripts may match on and one plain sentence. Code that finds a precondition broken raises `Refused` with the reason.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from bnfold.lifetime import closed_at_the_end

NodeKey = tuple[str, str]
"""The scope of a node ("" for the main graph) and its label there."""


class Action(StrEnum):
    """The action taken on a normalization."""

    FOLDED = "folded"
    FROZEN = "frozen"
    MERGED = "merged"
    SUBSTITUTED = "substituted"
    REMOVED = "removed"
    RECALIBRATED = "recalibrated"
    LOWERED = "lowered"
    KEPT = "kept"


class Coded(Enum):
    """A statement on a normalization: a stable code for scripts and a sentence for people."""

    @property
    def code(self) -> str:
        """The stable code, as in reports and on the command line: the member's name."""
        return self.name

    @property
    def sentence(self) -> str:
        """The meaning in plain words."""
        value: str = self.value
        return value


class Reason(Coded):
    """Why a normalization stays. The name is the stable code; the value is the sentence for people."""

    # The node itself.
    TRAIN_MODE = "It runs in training mode, so it normalizes with the statistics of each batch."
    SPATIAL_ZERO = (
        "It has spatial = 0, which normalizes every position on its own and which onnxruntime does not run; "
        "with one parameter per channel the exporter meant spatial = 1, and --assume-spatial reads it so."
    )
    ATTRIBUTE_OF_CALLER = "An attribute takes its value from an argument of the function it stands in."
    MALFORMED = "Its parameters or attributes do not have the form the operator's specification asks for."
    PARAMETER_NOT_CONSTANT = "One of its parameters is computed while the model runs."
    CONSTANT_DISPUTED = (
        "One of its constants is computed by operators on whose result two evaluators disagree, so neither is believed."
    )
    OVERRIDABLE_PARAMETER = (
        "One of its parameters is also a graph input, so a caller may replace it; where none does, "
        "--assume-constant-initializers says so."
    )
    PARAMETER_SHAPE = "Its parameters are not one number per channel."
    NOT_FINITE = "Its parameters are not finite, or its variance plus epsilon is not positive."
    KEPT_ON_REQUEST = "It was chosen to be kept."
    ROLLED_BACK = "Folding it made the result differ from the input, so the fold was taken back: please report it."
    INITIAL_STATISTICS = (
        "It runs in training mode and its stored mean and variance were never updated, so there is nothing to freeze."
    )
    BATCH_STATISTICS = (
        "It has no stored statistics: the model computes its mean and variance from its own input. "
        "bnfold recalibrate --data computes some to store, --statistics-from takes saved ones."
    )
    STATISTICS_READ = "It runs in training mode and something reads the running statistics it gives out."
    UNEVEN_GROUPS = "Its channels cannot be divided into that many groups of one size."
    ONE_VALUE_PER_CHANNEL = "Each channel of each image has one value, which normalized by itself is always zero."
    STATISTICS_NOT_FOUND = "The file of weights has no statistics for it, by name or by the values of its parameters."
    DECIDED_AT_RUN_TIME = "Whether it runs in training mode is decided while the model runs."
    # Its surroundings.
    GRAPH_INPUT = (
        "Its input comes straight from the graph's inputs, and no linear operator follows that could take it up."
    )
    NO_PRODUCER = "Its input is a constant or comes from outside this scope."
    OTHER_CONSUMER = "The value it would be folded into is also read elsewhere."
    VALUE_IS_OUTPUT = "The value it would be folded into is an output of the graph."
    BARRIER = "The operator beside it is not linear in each channel, so nothing can be moved across it."
    UNKNOWN_OPERATOR = "The operator beside it is not one bnfold knows."
    SHAPE_UNKNOWN = "The rank or shape of a value on the way is unknown."
    NOT_PER_CHANNEL = "On the other side of the operator beside it the map is no longer one number per channel."
    WRONG_AXIS = "Its channels are not the output channels of the operator beside it."
    NEGATIVE_SCALE = "The operator beside it lets only positive scales pass, and one of its scales is not positive."
    SHIFT_BLOCKED = "The operator beside it lets a scale pass but no shift."
    ROUNDING_CAST = (
        "The Cast beside it rounds to another float type, and its scale or shift would be rounded by more than the "
        "weight it would be folded into is."
    )
    PADDED_BORDER = "The operator beside it pads with zeros, so a shift would be wrong along the border."
    NO_CONSUMER = "Nothing reads its output."
    ZERO_SCALE = "One of its scales is zero, so its shift cannot be moved in front of it."
    OLD_OPSET = "It would need a broadcasting Add, which this operator set version does not have."
    NAME_TAKEN = "A body nested beside it has something of its own by the name that a value on the way would go by."
    NOT_ALL_ABSORB = "It would have to be folded into several places, and one of them cannot take it up."
    # The operator it would be folded into.
    WEIGHT_NOT_CONSTANT = (
        "The weight it would be folded into is computed while the model runs, or a caller may replace it."
    )
    BIAS_NOT_CONSTANT = "The bias it would be folded into is computed while the model runs, or a caller may replace it."
    WEIGHT_SHAPE = "The weight it would be folded into does not have the shape its operator's specification asks for."
    NOT_BROADCASTABLE = "The bias it would be folded into cannot hold one number per channel."
    WEIGHT_OVERFLOW = "A folded weight or bias would not be finite in the dtype that stores it."
    WEIGHT_UNDERFLOW = "Folded weights of some channel would fall below the normal range of the dtype that stores them."
    UNSUPPORTED_DTYPE = "The weight it would be folded into is stored in a dtype that cannot be scaled exactly enough."
    KERNELS_DIFFER = (
        "No one kernel reads what it and the branch beside it read: their strides, channels or output positions differ."
    )
    MORE_WORK = "One operator for it and the branch beside it would be more work than the two are."
    MORE_NODES = "Folding it would leave at least as many operators as before."
    PART_OF_A_PATTERN = (
        "It is a part of a LayerNormalization, a Gelu or an attention written in operators, which runtimes recognize "
        "only as a whole."
    )
    SEARCH_LIMIT = "The search for a place to fold it reached its limit of steps."


class Diagnosis(Coded):
    """A symptom of a normalization. The name is the stable code; the value is the sentence for people."""

    EXPORTED_IN_TRAINING_MODE = (
        "It was exported without .eval(): what it computes depends on the other images of the batch or on chance. "
        "onnxruntime runs it on the CPU; on CUDA and WebGPU it refuses that of opset 14 and newer, and WebGPU takes an "
        "older one for inference without a word. PyTorch's TorchScript exporter also moves stored statistics one step "
        "toward the example input; bnfold optimize freezes it, and bnfold recalibrate computes its statistics anew."
    )
    ONE_VALUE_PER_CHANNEL = (
        "In training mode it needs more than one value per channel: with one, the variance is 0 and the output its "
        'bias alone, which PyTorch refuses with "Expected more than 1 value per channel when training".'
    )
    BEHIND_ACTIVATION = (
        "It stands behind an activation, which lets positive scales pass at most: its shift can go only into what "
        "stands behind it, and stays as an Add where that reads padding."
    )
    INITIAL_STATISTICS = (
        "Its stored mean is 0 and its variance 1 in every channel, as in a new layer: the statistics were never "
        "updated, or the export lost them. bnfold recalibrate computes them from data."
    )
    TINY_VARIANCE = (
        "Some channels have a variance below epsilon and a scale that is not small: they amplify rounding and noise."
    )
    BATCH_STATISTICS = (
        "It has no stored statistics (track_running_stats=False, or exported with training=True) and normalizes with "
        "those of the batch in every mode: each answer depends on the other images of the batch. "
        "bnfold recalibrate --data computes some to store, --statistics-from takes saved ones."
    )
    LOST_STATISTICS = (
        "Its stored mean and variance are 0 in every channel: no training ends so, the exporter lost them, and what it "
        "computes is its input over the root of epsilon. bnfold recalibrate --data computes them anew, "
        "--statistics-from takes saved ones."
    )
    SPATIAL_ZERO = (
        "It has spatial = 0 and one parameter per channel, which the specification does not allow and no runtime "
        "takes: the exporter (as MXNet's) meant spatial = 1. bnfold optimize --assume-spatial reads it so; opset 9 and "
        "later have no such attribute."
    )
    QUANTIZED_BEFORE_FOLDING = (
        "The model was quantized before this was folded: it stands between DequantizeLinear and QuantizeLinear, or its "
        "parameters are quantized. Fold the float model first, then quantize the result."
    )


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """A precondition of a rewrite does not hold: the rewrite is not done, nothing is wrong with the model.

    `detail` names the value, node or number that broke it.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.code}: {detail}" if detail else reason.code)
        self.reason = reason
        self.detail = detail
        closed_at_the_end(self)

    def close(self) -> None:
        """Drop the traceback, which refers to the frame that keeps the nearest of several refusals: a cycle."""
        self.__traceback__ = self.__context__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True)
class Decision:
    """The fate of one normalization.

    `node` is the node's name, or its first output where it has none (`label` of the graph room), `scope` the path of
    the scope that holds it ("" for the main graph), `target` the nodes whose parameters took it up. `walk` tells line
    by line what was tried and where it stopped, where somebody asked for that. `partly`: its scale was folded, and its
    shift stays as an Add.
    """

    node: str
    op_type: str
    scope: str
    action: Action
    target: tuple[str, ...] = ()
    reason: Reason | None = None
    detail: str = ""
    walk: tuple[str, ...] = ()
    partly: bool = False
    gain: bool = False

    @property
    def is_gain_that_stays(self) -> bool:
        """Whether it is a gain or bias that no linear operator took up: no normalization, and nothing was done."""
        return self.gain and self.action is Action.KEPT

    @property
    def outcome(self) -> str:
        """The action in words, and whether it was done in part."""
        return f"{'partly ' * self.partly}{self.action.value}"

    def to_dict(self) -> dict[str, Any]:
        """The decision as the JSON report writes it."""
        return {
            "node": self.node,
            "op_type": self.op_type,
            "scope": self.scope,
            "action": self.action.value,
            "target": list(self.target),
            "reason": None if self.reason is None else {"code": self.reason.code, "sentence": self.reason.sentence},
            "detail": self.detail,
        } | {key: value for key, value in self._sometimes if value}

    @property
    def _sometimes(self) -> tuple[tuple[str, Any], ...]:
        return ("walk", list(self.walk)), ("partly", self.partly), ("gain", self.gain)
