"""The shape of the house: who imports whom, how large files are, units in names, sources of formulas.

If you are here because one of these failed: the rule is in the test's docstring, and the fix belongs in the code.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("profiles", "planner", "simulator", "validate", "meshwise")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Function))


def test_imports_run_downward_only() -> None:
    """The contracts of pyproject.toml hold."""
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_room_is_ours() -> None:
    """No distribution shadows a room (configobj installs a top-level `validate`)."""
    code = "import " + ", ".join(ROOMS) + "; print(" + ", ".join(f"{room}.__file__" for room in ROOMS) + ", sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [Path(line) for line in done.stdout.splitlines()] == [ROOT / room / "__init__.py" for room in ROOMS]


def test_planner_loads_neither_torch_nor_matplotlib() -> None:
    """Planning stays light: every module of profiles and planner is imported, and neither library comes along."""
    modules = ", ".join(
        name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for path in FILES
        if name_of(path).startswith(("profiles/", "planner/"))
    )
    code = f"import sys, {modules}; print([name for name in ('torch', 'matplotlib', 'simpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    """A file past 400 lines becomes a folder with the same door; a function past 60 is cut where it says `and`."""
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    long = [
        f"{name_of(path)}:{function.name}"
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_and_public_names_say_what_they_are_for(path: Path) -> None:
    """Every module, and every public class and function at its top, has a docstring."""
    tree = tree_of(path)
    public = [node for node in tree.body if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")]
    missing = [node.name for node in public if not ast.get_docstring(node)]
    assert ast.get_docstring(tree)
    assert not missing


SI_LITERALS = {1e6, 1e9, 1e12, 1e15, 2.0**20, 2.0**30, 2.0**40, 3600.0, 86400.0}
NOT_A_UNIT = {
    "meshwise/jobfile.py": {1e6},  # the largest degree that is not a typing error
}
"""Files that hold one of those figures with another meaning."""


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "units.py"], ids=name_of)
def test_unit_constants_live_in_units(path: Path) -> None:
    """1e9 and 2**30 are written in profiles/units.py only, under their names."""
    values = {
        float(node.value)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    }
    powers = {
        ast.unparse(node)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.left, ast.Constant)
    }
    assert values & SI_LITERALS <= NOT_A_UNIT.get(name_of(path), set())
    assert not {power for power in powers if re.fullmatch(r"(2|10|1024)(\.0)? \*\* -?\d+", power)}


FLOATS = re.compile(r"\b(float|Positive|NonNegative|Floats|float64)\b")
"""Annotations that hold floats without saying of what (`Seconds` and `Bytes` say it)."""
UNITS = re.compile(
    r"(^|_)(seconds?|bytes|flops|watts|dollars|fraction|parameters|tokens|launches|ranks|devices|elements|length|inches|joules|"
    r"kilograms)(_per_\w+)?$|^num_|^bytes_|_by_part$|_(ratio|factor|gain)$|^exponent$"
)
UNIT_OWNERS = re.compile(r"(Times|Bytes|Seconds)$")
"""Classes whose name says the unit of every field."""
DIMENSIONLESS = frozenset({
    "PrefillCurve.half_dim", "Term.log_factors", "Site.pue", "site.pue",
    "Attention.passes", "AttentionCurve.half_dim", "Collective.rounds", "Shard.width",
    "SoftwareStack.reserved_over_allocated", "assign.costs", "assign.first", "assign.last", "rank_memory.counts",
    "SoftwareStack.reserved_p90_over_median", "Tier.oversubscription", "TierSpec.oversubscription",
    "collective.rounds", "exposed_seconds.communication", "exposed_seconds.compute", "ffn_parameters.ffn_size",
    "host_excess_seconds.loads", "front_rows.first", "front_mask.costs", "Figure.units", "Requirement.value",
    "Estimate.value", "Estimate.low", "Estimate.high", "mean_estimate.values", "percentile_estimate.values",
    "percentile_estimate.percent", "spread.values",
    "Funnel.known_limit", "Funnel.misses",
    "Level.oversubscription", "fair_rates.capacity", "fair_rates.limits", "filled_rates.taken", "filled_rates.capacity",
    "filled_rates.limits", "Fluid.capacity", "Fluid.load", "Folding.slowness", "fold.slowness", "fold.marks",
    "Disturbances.slow_hosts", "Pattern.scale", "Patterns.rows",
    "Knots.at", "Knots.values", "Sheet.first", "Sheet.second", "Sheet.values", "geometric.first", "geometric.last",
    "ServedShard.tp", "ServedShard.attention_dp", "ServedShard.ep", "ServedShard.pp", "ServedShard.routing_skew",
    "EnginePrices.attention_dp", "EnginePrices.num_layers",
    "replica_curve.tokens_per_iteration", "ServingPlan.acceptance_fraction",
    "EnginePrices.num_doublings", "EnginePrices.prompt_time_factor",
    "EngineRecord.routing_skew", "EngineRecord.prompt_time_factor", "ReplicaCurve.most_running",
    "EngineRecord.sparse_prompt_time_factor", "EngineRecord.prompt_time_factors", "EngineRecord.time_factors",
    "ServedShard.time_factors", "Repeated.times",
})  # fmt: skip
"""Pure numbers and counts of elements; and what a `_seconds` function takes in seconds."""


def float_names(path: Path) -> Iterator[str]:
    """Fields of public classes and parameters of public functions that hold floats, as `owner.name`."""
    for node in tree_of(path).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not UNIT_OWNERS.search(node.name):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and FLOATS.search(ast.unparse(field.annotation)):
                    yield f"{node.name}.{ast.unparse(field.target)}"
        elif isinstance(node, Function) and not node.name.startswith("_"):
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                if argument.annotation and FLOATS.search(ast.unparse(argument.annotation)):
                    yield f"{node.name}.{argument.arg}"


PLANNING = [path for path in FILES if name_of(path).startswith(("profiles/", "planner/", "simulator/"))]


@pytest.mark.parametrize("path", PLANNING, ids=name_of)
def test_quantities_carry_their_unit(path: Path) -> None:
    """A float in a public name says what it is measured in, or is listed as a pure number."""
    bare = [name for name in float_names(path) if not UNITS.search(name.split(".")[1]) and name not in DIMENSIONLESS]
    assert not bare


CITATION = re.compile(r"arXiv|Source:|\[[A-Z]\w+.* \d{4}|doi|section \d|eq\. ")
FORMULA = re.compile(r"(_seconds|_bytes|_flops|^mfu|^step_breakdown|^memory)$")
COST = [path for path in FILES if name_of(path).startswith("planner/cost/")]


@pytest.mark.parametrize("path", COST, ids=name_of)
def test_formulas_cite_their_source(path: Path) -> None:
    """A public formula in planner/cost names its equation or measurement in its docstring or its module's."""
    tree = tree_of(path)
    module = ast.get_docstring(tree) or ""
    silent = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and FORMULA.search(node.name)
        if not CITATION.search(f"{module} {ast.get_docstring(node)}")
    ]
    assert not silent


@pytest.mark.parametrize("path", [path for path in FILES if not name_of(path).startswith("meshwise/")], ids=name_of)
def test_only_the_face_ends_the_process_or_prints(path: Path) -> None:
    """Rooms below the face raise; they neither exit nor print."""
    calls = {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}
    assert not calls & {"print", "sys.exit", "exit", "quit"}
