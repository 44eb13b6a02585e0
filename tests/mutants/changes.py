"""Every small change that can be made to a syntax tree, one at a time.

What is said to people is left as it is: documentation, messages of errors, any text with a space.
"""

import ast
import re
from contextlib import suppress

SWAPS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Break: ast.Pass,
    ast.Continue: ast.Pass,
}
NO_CODE = {"annotation", "returns", "decorator_list", "type_comment", "ctx"}
FOR_PEOPLE = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)
"""Whether there is a refusal is tried by its condition."""


def changes(tree, scope=""):
    """Line, name and maker of each change to the tree, always in the same order."""
    for field, value in ast.iter_fields(tree):
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if field in NO_CODE or not isinstance(node, ast.AST) or _is_prose(node):
                continue

            def put(new, field=field, index=index, value=value):
                if isinstance(value, list):
                    value[index] = new
                else:
                    setattr(tree, field, new)

            line = getattr(node, "lineno", getattr(tree, "lineno", 0))
            for name, new in _instead(node):
                yield line, f"{'.' if scope else ''}{scope}: {name}", lambda put=put, new=new: put(new)
            if not isinstance(node, FOR_PEOPLE):
                inner = getattr(node, "name", None) if isinstance(node, ast.stmt) else None
                yield from changes(node, ".".join(filter(None, (scope, inner))))


def _is_prose(node):
    constant = node.value if isinstance(node, ast.Expr) else node
    text = constant.value if isinstance(constant, ast.Constant) else None
    return isinstance(text, str) and (isinstance(node, ast.Expr) or " " in text)


def _instead(node):
    """What may stand in the place of the node, and how that is called."""
    if type(node) in SWAPS:
        yield f"{type(node).__name__} -> {SWAPS[type(node)].__name__}", SWAPS[type(node)]()
    if isinstance(getattr(node, "ctx", None), ast.Store):
        return
    for name, new in OTHERS.get(type(node), lambda _: ())(node):
        yield f"{_shown(node)} {name}", new


def _operand_less(node):
    for index, value in enumerate(node.values):
        less = _without(node.values, index)
        yield f"without {_shown(value)}", less[0] if len(less) == 1 else ast.BoolOp(node.op, less)


def _member_less(node):
    others = {"ctx": node.ctx} if hasattr(node, "ctx") else {}
    for index, member in enumerate(node.elts if len(node.elts) > 1 else ()):
        yield f"without {_shown(member)}", type(node)(_without(node.elts, index), **others)


def _key_less(node):
    for index, key in enumerate(node.keys if len(node.keys) > 1 else ()):
        less = ast.Dict(_without(node.keys, index), _without(node.values, index))
        yield f"without {_shown(key) if key else '**'}", less


def _constant(node):
    """Of a pattern one without each of its alternatives; of any other text one with a letter more."""
    value = node.value
    if isinstance(value, bool):
        yield f"-> {not value}", ast.Constant(not value)
    elif isinstance(value, int | float):
        yield f"-> {value + 1}", ast.Constant(value + 1)
    elif isinstance(value, str | bytes):
        bar, letter = ("|", "x") if isinstance(value, str) else (b"|", b"x")
        parts = value.split(bar)
        if len(parts) == 1:
            yield "with a letter more", ast.Constant(value + letter)
        for index, part in enumerate(parts if len(parts) > 1 else ()):
            less = bar.join(_without(parts, index))
            with suppress(re.error):
                re.compile(less)
                yield f"without {part!r}", ast.Constant(less)


def _decided(node):
    for value in (False, True):
        yield f"is {value}", ast.If(ast.Constant(value), node.body, node.orelse)


def _return_less(node):
    if node.value is not None and not isinstance(node.value, ast.Constant):
        yield "-> None", ast.Return(ast.Constant(None))


OTHERS = {
    ast.BoolOp: _operand_less,
    ast.Tuple: _member_less,
    ast.List: _member_less,
    ast.Set: _member_less,
    ast.Dict: _key_less,
    ast.Constant: _constant,
    ast.If: _decided,
    ast.IfExp: lambda node: [("as if true", node.body), ("as if not", node.orelse)],
    ast.UnaryOp: lambda node: [("without not", node.operand)] if isinstance(node.op, ast.Not) else [],
    ast.Return: _return_less,
    ast.Expr: lambda node: [("left out", ast.Pass())] if isinstance(node.value, ast.Call) else [],
    ast.AugAssign: lambda node: [("left out", ast.Pass())],
}


def _shown(node):
    node = node.test if isinstance(node, ast.If) else node
    text = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else type(node).__name__
    return " ".join(text.split())[:60]


def _without(members, index):
    return [*members[:index], *members[index + 1 :]]
