"""How many BatchNormalizations are left in models: python -m benchmarks.remaining MODEL... prints JSON by path.

Counted at any depth, without reading weights that lie beside the model.
"""

import json
import sys

import onnx

from bnfold.equivalence.structure.signature import every_node


def main(paths: list[str]) -> None:
    """Count in each."""
    found = {}
    for path in paths:
        model = onnx.load(path, load_external_data=False)
        nodes = (node for body in (model.graph, *model.functions) for node in every_node(body))
        found[path] = sum(node.op_type == "BatchNormalization" for node in nodes)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
