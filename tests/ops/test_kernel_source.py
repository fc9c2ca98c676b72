"""Rules that keep every kernel working in every supported Triton, 3.2 to 3.9, compiled and interpreted; by its source.

- A module's constexpr is no left operand of a tensor: write `tensor * CONSTEXPR`. The interpreter of Triton 3.4 to 3.8
  makes a constexpr of the other order, and then takes no part of it for a tensor.
- No `~` of a bool and no tl.int1: write `flag == 0`. The interpreter of Triton 3.2 has neither.
- An argument is no bool, unless its parameter is a constexpr: pass an int. That of Triton 3.7 refuses it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = sorted(
    file
    for package in ("o_voxel", "trellis2")
    for file in (ROOT / package / "ops").rglob("kernel*.py")
    if "import triton" in file.read_text(encoding="utf-8")
)
HEADER = "X, (Y, Z) = tl.constexpr(1), (tl.constexpr(part) for part in (2, 3))\n@triton.jit\n"


def names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def constants(tree: ast.Module) -> set[str]:
    """Module-level constexprs. One that is imported from another kernel's module is in capitals, as these are."""
    assigned = (node for node in tree.body if isinstance(node, ast.Assign) and "tl.constexpr(" in ast.unparse(node))
    imported = (
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    )
    return {name for node in assigned for target in node.targets for name in names(target)} | {
        name for name in imported if name.isupper()
    }


def jitted(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    return {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(mark) for mark in node.decorator_list)
    }


def constexpr_parameters(function: ast.FunctionDef) -> set[str]:
    return {
        arg.arg
        for arg in (*function.args.args, *function.args.kwonlyargs)
        if arg.annotation is not None and ast.unparse(arg.annotation) == "tl.constexpr"
    }


def is_constant(node: ast.expr, known: set[str]) -> bool:
    """Made of literals and known names alone."""
    return not any(isinstance(part, ast.Call) for part in ast.walk(node)) and names(node) <= known


def constants_before_tensors(tree: ast.Module) -> Iterator[str]:
    found = constants(tree)
    for function in jitted(tree).values():
        known = found | constexpr_parameters(function)
        for node in ast.walk(function):
            constant_first = isinstance(node, ast.BinOp) and names(node.left) & found and is_constant(node.left, known)
            if constant_first and not is_constant(node.right, known):
                yield f"line {node.lineno}: {ast.unparse(node)}"
            # A loop's count may be a number of Python; what compares it with a constexpr is then one too.
            if (
                isinstance(node, ast.BinOp)
                and isinstance(node.left, ast.Compare)
                and any(isinstance(part, ast.Name) and part.id in found for part in node.left.comparators)
                and isinstance(node.left.left, ast.Name)
                and node.left.left.id in counters(function)
            ):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def inverted_bools(tree: ast.Module) -> Iterator[str]:
    """`~` of a comparison or of a lone name, and tl.int1."""
    for function in jitted(tree).values():
        for node in ast.walk(function):
            inverted = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert) else None
            if isinstance(inverted, ast.Name | ast.Compare) or (
                isinstance(inverted, ast.BinOp) and isinstance(inverted.op, ast.BitAnd | ast.BitOr)
            ):
                yield f"line {node.lineno}: {ast.unparse(node)}"
            if isinstance(node, ast.Attribute) and node.attr == "int1":
                yield f"line {node.lineno}: {ast.unparse(node)}"


def counters(function: ast.FunctionDef) -> set[str]:
    """Names that are given a literal integer."""
    return {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, int)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def is_bool(node: ast.expr, flags: set[str]) -> bool:
    return (
        isinstance(node, ast.Compare | ast.BoolOp)
        or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
        or (isinstance(node, ast.Constant) and isinstance(node.value, bool))
        or (isinstance(node, ast.Name) and node.id in flags)
    )


def bool_arguments(tree: ast.Module) -> Iterator[str]:
    """Of `kernel[grid](...)` in the module of the kernel."""
    kernels = jitted(tree)
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        flags = {arg.arg for arg in function.args.args if arg.annotation and ast.unparse(arg.annotation) == "bool"}
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            launched = call.func.value if isinstance(call.func, ast.Subscript) else None
            kernel = kernels.get(launched.id) if isinstance(launched, ast.Name) else None
            if kernel is None:
                continue
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            for parameter, value in zip(kernel.args.args, call.args, strict=False):
                if isinstance(value, ast.Starred):
                    break
                given[parameter.arg] = value
            parameters = {arg.arg for arg in kernel.args.args} - constexpr_parameters(kernel)
            for name in parameters & given.keys():
                if is_bool(given[name], flags):
                    yield f"line {call.lineno}: {kernel.name}({name}={ast.unparse(given[name])})"


@pytest.mark.slow
@pytest.mark.parametrize("file", KERNELS, ids=lambda file: str(file.relative_to(ROOT)))
def test_kernels_keep_the_rules(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert jitted(tree)
    assert [*constants_before_tensors(tree), *bool_arguments(tree), *inverted_bools(tree)] == []


def test_all_kernels_are_read():
    assert len(KERNELS) > 15


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("X * a", True),
        ("(1 + X) / (a * a)", True),
        ("Y * Z * a", True),
        ("Z * tl.abs(a)", True),
        ("n * X - a", False),
        ("a * X", False),
        ("a * (X * Y)", False),
        ("tl.full([], 1 + X, tl.float32) / a", False),
        ("(a < X) & (a > 0)", False),
        ("X * W", False),
        ("(n < X) & (a > 0)", True),
        ("(a > 0) & (n < X)", False),
    ],
)
def test_the_order_that_is_refused(line, refused):
    tree = ast.parse(f"{HEADER}def k(a, W: tl.constexpr):\n    n = 0\n    return {line}")
    assert bool(list(constants_before_tensors(tree))) == refused


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ("x, flag", True),
        ("x, a is None", True),
        ("x, flag=not a", True),
        ("x, True", True),
        ("x, int(flag)", False),
        ("x, 1, W=flag", False),
        ("x, 1, flag", False),
        ("*both, flag", False),
    ],
)
def test_the_argument_that_is_refused(arguments, refused):
    kernel = f"{HEADER}def k(x, flag, W: tl.constexpr):\n    pass\n"
    tree = ast.parse(f"{kernel}def launch(x, a, both, flag: bool):\n    k[(1,)]({arguments})")
    assert bool(list(bool_arguments(tree))) == refused


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("~a", True),
        ("~(a > 0)", True),
        ("~(a & (a > 0))", True),
        ("tl.full([4], 1, tl.int1)", True),
        ("a == 0", False),
        ("a & ~((1 << a) - 1)", False),
    ],
)
def test_the_negation_that_is_refused(line, refused):
    tree = ast.parse(f"{HEADER}def k(a):\n    return {line}")
    assert bool(list(inverted_bools(tree))) == refused
