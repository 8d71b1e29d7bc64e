"""Functions whose callers know what the pass over their bodies cannot: that a factor is a constant."""

from bnfold.graph import Model

_FACTORS = frozenset({"Mul", "Div"})


def with_factors_of_callers(model: Model) -> set[tuple[str, str]]:
    """Domain and name of each function of `model` that scales by an operand for which a call gives a constant."""
    bodies = {
        (graph.function.domain, graph.function.name): graph
        for graph in model.graphs
        if graph.function is not None and graph.parent is None
    }
    found: set[tuple[str, str]] = set()
    for graph in model.graphs:
        for call in graph.nodes():
            body = bodies.get((call.domain, call.op_type))
            if body is None or body.function is None or (call.domain, call.op_type) in found:
                continue
            for formal, given in zip(body.function.input, call.input, strict=False):
                scales = any(use.node.op_type in _FACTORS for use in body.readers(formal))
                if scales and given and graph.constant(given) is not None:
                    found.add((call.domain, call.op_type))
    return found
