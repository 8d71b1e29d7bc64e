"""Mutants: the code of a module with one guard taken out or weakened.

A guard is whatever decides that something is *not* done: an `if` that leaves (raise, return, continue, break), one
operand of an `and` or `or`, one link of a chained comparison, the condition of a comprehension or a `case`, or a call
whose result nobody uses, made because it may raise. A mutant keeps the names and lines of the original, so that its
code can take the place of the old one in functions that exist already.
"""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

_LEAVES = (ast.Raise, ast.Return, ast.Continue, ast.Break)


@dataclass(frozen=True)
class Mutant:
    """`code` is the whole module, changed at `line`. Only a test that runs line `reached` can notice."""

    line: int
    reached: int
    what: str
    code: CodeType


def guard_mutants(source: str, filename: str) -> Iterator[Mutant]:
    """Every guard in the functions of `source` taken out, one at a time."""
    tree = ast.parse(source)
    for statement in list(_statements(tree)):
        for site in list(_sites(statement)):
            old = getattr(site.owner, site.field)
            setattr(site.owner, site.field, site.new)
            code = compile(ast.fix_missing_locations(tree), filename, "exec")
            setattr(site.owner, site.field, old)
            yield Mutant(site.line, site.reached, site.what, code)


def cosmic_ray_mutants(source: str, filename: str) -> Iterator[Mutant]:
    """What cosmic-ray makes of the functions of `source`: other numbers, comparisons, operators, booleans."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    tree, statements = get_ast(source), list(_statements(ast.parse(source)))
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = [place for node in ast_nodes(tree) for place in operator().mutation_positions(node)]
        for occurrence, ((line, _), _) in enumerate(places):
            around = [each.lineno for each in statements if each.lineno <= line <= (each.end_lineno or 0)]
            mutated = mutate_code(source, operator(), occurrence) if around else None
            if mutated is None:
                continue
            with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # as of `1 is x`
                code = compile(mutated, filename, "exec")
            yield Mutant(line, max(around), name.split("/")[1], code)


@dataclass(frozen=True)
class _Site:
    """`new` in the place of a field of `owner` makes the mutant."""

    owner: ast.AST
    field: str
    new: Any
    line: int
    reached: int
    what: str


def _statements(node: ast.AST, *, inside: bool = False) -> Iterator[ast.stmt]:
    """The statements inside functions; assertions are not there to refuse anything."""
    for child in ast.iter_child_nodes(node):
        if inside and isinstance(child, ast.stmt) and not isinstance(child, ast.FunctionDef | ast.Assert):
            yield child
        yield from _statements(child, inside=inside or isinstance(child, ast.FunctionDef))


def _sites(statement: ast.stmt) -> Iterator[_Site]:
    """The guards of one statement, without those of the statements in it."""
    leaves = isinstance(statement, ast.If) and not statement.orelse and isinstance(statement.body[-1], _LEAVES)
    if isinstance(statement, ast.If) and leaves:
        what = f"if {ast.unparse(statement.test)}: never"
        reached = statement.body[0].lineno
        yield _Site(statement, "test", _never(statement.test), statement.lineno, reached, what)
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name()) as call):
            what = f"{ast.unparse(call)}: not called"
            yield _Site(statement, "value", _never(call), statement.lineno, statement.lineno, what)
    for expression in _expressions(statement):
        yield from _clauses(expression, statement, leaves=leaves)


def _clauses(expression: ast.AST, statement: ast.stmt, *, leaves: bool) -> Iterator[_Site]:
    """What can be left out of `expression` itself."""
    line = getattr(expression, "lineno", statement.lineno)
    reached = statement.lineno
    match expression:
        case ast.BoolOp(op=operator, values=values):
            either = isinstance(operator, ast.Or)
            if either and leaves and isinstance(statement, ast.If) and expression is statement.test:
                reached = statement.body[0].lineno  # less is refused: only who was refused can tell
            for i, value in enumerate(values):
                new = [*values[:i], _never(value) if either else _always(value), *values[i + 1 :]]
                what = f"without `{ast.unparse(value)}` in `{ast.unparse(expression)}`"
                yield _Site(expression, "values", new, value.lineno, reached, what)
        case ast.Compare(left=left, ops=ops, comparators=comparators) if len(ops) > 1:
            operands = [left, *comparators]
            for i in range(len(ops)):
                links = [ast.Compare(operands[j], [ops[j]], [operands[j + 1]]) for j in range(len(ops)) if j != i]
                new_test = ast.BoolOp(ast.And(), links) if len(links) > 1 else links[0]
                what = f"without `{ast.unparse(ast.Compare(operands[i], [ops[i]], [operands[i + 1]]))}`"
                yield from _replaced(expression, new_test, statement, line, what)
        case ast.comprehension(ifs=[_, *_] as conditions):
            what = f"without `if {ast.unparse(conditions[0])}` in a comprehension"
            yield _Site(expression, "ifs", [_always(conditions[0]), *conditions[1:]], line, reached, what)
        case ast.match_case(guard=ast.expr() as guard):
            yield _Site(
                expression, "guard", _always(guard), guard.lineno, reached, f"case without `{ast.unparse(guard)}`"
            )


def _replaced(old: ast.AST, new: ast.AST, statement: ast.stmt, line: int, what: str) -> Iterator[_Site]:
    """`new` wherever `old` stands in `statement`."""
    for owner in ast.walk(statement):
        for field, value in ast.iter_fields(owner):
            if value is old:
                yield _Site(owner, field, new, line, statement.lineno, what)
            elif isinstance(value, list) and any(each is old for each in value):
                changed = [new if each is old else each for each in value]
                yield _Site(owner, field, changed, line, statement.lineno, what)


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Everything in a statement but the statements in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            yield child
            yield from _expressions(child)


def _never(test: ast.expr) -> ast.expr:
    """False; the names that `test` uses still count as used, so that closures stay what they are."""
    return ast.BoolOp(ast.And(), [ast.Constant(value=False), test])


def _always(test: ast.expr) -> ast.expr:
    return ast.BoolOp(ast.Or(), [ast.Constant(value=True), test])
