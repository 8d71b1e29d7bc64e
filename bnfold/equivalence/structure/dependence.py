"""Which values of a model depend on which: what a change can have reached."""

from collections.abc import Iterable, Iterator

from onnx import NodeProto

from bnfold.equivalence.structure.scopes import Cutter, Scope


def reached(cutter: Cutter, starts: Iterable[tuple[str, str]]) -> set[str]:
    """The values of the main graph that depend on any of `starts`, each a scope's path and a value in it.

    A value inside a body or a function reaches what the nodes give out that run it.
    """
    main = cutter.scopes[0]
    found: set[str] = set()
    waiting = [name for path, value in starts for name in _in_main(cutter, path, value)]
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            waiting += [made for at in main.readers.get(name, ()) for made in main.nodes[at].output]
    return found


def _in_main(cutter: Cutter, path: str, value: str) -> Iterator[str]:
    if not path:
        yield value
        return
    waiting = [scope for scope in cutter.scopes if scope.path == path]
    seen: set[int] = set()
    while waiting:
        scope = waiting.pop()
        if scope.number in seen:
            continue
        seen.add(scope.number)
        for home, node in _runners(cutter, scope):
            if home.number == 0:
                yield from node.output
            else:
                waiting.append(home)


def _runners(cutter: Cutter, scope: Scope) -> Iterator[tuple[Scope, NodeProto]]:
    """The nodes that run a body or call a function, each with the scope that it is in."""
    if scope.parent is not None:
        for position, bodies in scope.parent.bodies.items():
            if scope.number in bodies.values():
                yield scope.parent, scope.parent.nodes[position]
        return
    for home in cutter.scopes:
        for node in home.nodes:
            if (node.domain, node.op_type, node.overload) == scope.key:
                yield home, node
