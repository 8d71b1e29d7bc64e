"""Questions about a model's graphs, and the one door through which they are edited.

A pass never touches the protobuf: it asks a `Graph`, and edits through its methods, which keep the use-def index true
and record what changed.
"""

from bnfold.graph.attributes import DEFAULT_DOMAINS, attribute, number, numbers, text
from bnfold.graph.changes import Changes, changes_between
from bnfold.graph.collector import paused_collector
from bnfold.graph.graph import STORED, Graph, PlainConstant, Use
from bnfold.graph.inference import infer_shapes
from bnfold.graph.inlining import inlined
from bnfold.graph.model import Edit, Model
from bnfold.graph.operator_values import Call, NoValueError, values_of
from bnfold.graph.schemas import check_new_forms, forms_of
from bnfold.graph.tensor import FLOAT_TYPES, FLOATS, Tensor, TensorPayload
from bnfold.graph.witness import Evaluation, Evaluations, agree

__all__ = [
    "DEFAULT_DOMAINS",
    "FLOATS",
    "FLOAT_TYPES",
    "STORED",
    "Call",
    "Changes",
    "Edit",
    "Evaluation",
    "Evaluations",
    "Graph",
    "Model",
    "NoValueError",
    "PlainConstant",
    "Tensor",
    "TensorPayload",
    "Use",
    "agree",
    "attribute",
    "changes_between",
    "check_new_forms",
    "forms_of",
    "infer_shapes",
    "inlined",
    "number",
    "numbers",
    "paused_collector",
    "text",
    "values_of",
]
