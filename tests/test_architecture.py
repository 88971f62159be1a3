"""The rules of the structure, read from the syntax tree: imports run one way, and each heavy library has one place."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "genrec"
NAMES = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
GROUND = {
    "types",
    "store",
    "semantic_ids",
    "errors",
    "command_lines",
    "endpoints",
    "progress",
    "randomness",
    "item_rows",
    "item_titles",
    "ragged_rows",
    "row_chunks",
    "repeat_score",
    "smoothed_log_probs",
    "sampled_item_loss",
    "vector_search",
    "former_modules",
    "renamed",
    "precision",
    "cpu_info",
    "workspace",
    "written_files",
    "source_hash",
    "hashed_json",
    "manifests",
    "artifact_folders",
    "held_locks",
    "process_group",
    "storage_errors",
    "terminal_text",
    "objective_state",
    "plugin_errors",
    "plugin_source",
    "non_finite_source",
    "policy_modules",
    "own_ids",
    "input_files",
    "id_matching",
    "stage_names",
    "unchanged_values",
    "value_forms",
}  # import nothing above them
FOLDERS = {"data", "embeddings", "tokenizer", "model", "preference", "evaluation", "baselines", "trackers"}
TOP = [
    "renamed",
    "environment",
    "threads",
    "engines",
    "completion",
    "experiment",
    "tuning",
    "quickstart",
    "stage_inputs",
    "evaluation_stage",
    "stages",
    "stage_attempts",
    "pipeline",
    "experiment_context",
    "target_seeds",
    "run_file_format",
    "row_settings",
    "kept_steps",
    "studies",
    "tuning_record",
    "row_results",
    "seed_tables",
    "run_files",
    "kept_studies",
    "kept_rows",
    "row_trainings",
    "failed_runs",
    "live_runs",
    "run_list",
    "stored_artifacts",
    "run_status",
    "disk_usage",
    "clean_command",
    "loading",
    "row_tracking",
    "run_experiments",
    "task_graph",
    "stage_tasks",
    "sweeps",
    "training_processes",
    "launched_processes",
    "results",
    "dry_run",
    "serving",
    "component_choices",
    "field_paths",
    "override_messages",
    "overrides",
    "trial_search",
    "trials",
    "trial_tasks",
    "tuner",
    "tuning_report",
    "inspect_commands",
    "check_command",
    "doctor",
    "reports",
    "row_commands",
    "experiment_commands",
    "dashed_values",
    "serving_parser",
    "command_parser",
    "__main__",
    "__init__",
]


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def place(path: Path) -> str:
    """`data` of `genrec/data/corpus.py`, `store` of `genrec/store.py`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def allowed(name: str) -> set[str]:
    if name in GROUND:
        return GROUND
    if name in FOLDERS:
        return GROUND | {name}
    if name == "objectives":
        return GROUND | FOLDERS | {name}
    if name in ("training", "testing"):
        return GROUND | FOLDERS | {"objectives", name}
    return GROUND | FOLDERS | {"objectives", "training", "testing", name, *TOP[: TOP.index(name)]}


def test_imports_run_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "genrec" and len(parts) > 1 and parts[1] in NAMES - allowed(place(path)):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_each_heavy_library_has_one_place() -> None:
    """Lightning in one folder; torchmetrics, faiss, DuckDB, the network and the command line's parser of fields in one file each."""
    libraries = (
        "pytorch_lightning",
        "torchmetrics",
        "faiss",
        "tyro",
        "optuna",
        "pickle",
        "duckdb",
        "matplotlib",
        "urllib.request",
        "http",
        "requests",
        "wandb",
        "mlflow",
        "vl_convert",
        "jinja2",
        "fastapi",
        "uvicorn",
        "ray",
        "submitit",
        "multiprocessing",
    )
    where = {library: set() for library in libraries}
    for path in PACKAGE.rglob("*.py"):
        for library in where:
            if any(f"{name}.".startswith(f"{library}.") for name in imports(path)):
                where[library].add(str(path.relative_to(PACKAGE)))
    assert {Path(path).parts[0] for path in where["pytorch_lightning"]} == {"training"}
    assert where["torchmetrics"] == {"evaluation/torchmetrics.py"}
    assert where["faiss"] == {"vector_search.py"}
    assert where["tyro"] == {"overrides.py"}
    assert where["optuna"] == {"trial_search.py"}
    assert not where["pickle"]
    assert where["duckdb"] == {"data/event_log.py"}
    assert {Path(path).name for path in where["matplotlib"]} == {
        "comparison_plots.py",
        "curve_plots.py",
        "data_plots.py",
        "semantic_id_plots.py",
    }
    assert where["urllib.request"] | where["http"] == {"data/download/http_download.py"}
    assert not where["requests"]
    assert where["wandb"] == {"trackers/wandb_tracker.py"}
    assert where["mlflow"] == {"trackers/mlflow_tracker.py"}
    assert where["fastapi"] == {"serving/service_app.py"}
    assert where["uvicorn"] == {"serving/serve_command.py"}
    assert where["ray"] == {"engines/ray_workers.py"}
    assert where["submitit"] == {"engines/slurm_jobs.py"}
    assert where["multiprocessing"] == {"engines/local_workers.py"}
    assert where["vl_convert"] == where["jinja2"] == {"reports/report_page.py"}


def test_no_command_imports_the_torchmetrics_classes() -> None:
    module = "genrec.evaluation.torchmetrics"
    users = [path.name for path in PACKAGE.rglob("*.py") if any(f"{name}.".startswith(f"{module}.") for name in imports(path))]
    assert not users


def test_only_allowed_bases() -> None:
    """Composition: what is inherited from is torch's, Lightning's or torchmetrics', a protocol, a named tuple or an exception."""
    bases = {
        "Module",
        "Function",
        "LightningModule",
        "Callback",
        "Metric",  # of torchmetrics
        "TorchFunctionMode",  # of torch: sees each operation of a loss
        "Protocol",
        "NamedTuple",
        "Exception",
        "GenrecError",
        "Recommender",  # protocols that say more
        "Baseline",
        "Policy",
        "WindowPolicy",
        "SamplingPolicy",
        "SemanticIdPolicy",
        "PolicySpecification",
        "Source",
        "Split",
        "LabelingSplit",
        "ItemEncoder",
        "Quantizer",
        "FittedQuantizer",
        "InputError",
        "int",  # `PartOfStep`: the number of a step, so that a plug-in needs no change for steps in parts
    }
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", ast.unparse(base))
                    assert name in bases, f"{path.name}: {node.name} inherits from {name}"


def test_no_file_is_too_long() -> None:
    assert not [path.name for path in PACKAGE.rglob("*.py") if len(path.read_text(encoding="utf-8").splitlines()) > 300]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, genrec.__main__; from genrec import command_parser; command_parser.build(); "
        "print([n for n in ('torch', 'pandas', 'faiss') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_file_names_are_unique_in_the_package() -> None:
    names = [path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_docstrings_do_not_begin_with_a_stage_number() -> None:
    for path in PACKAGE.rglob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert not docstring.startswith(("Stage ", "Stages ")), path


def test_specifications_do_not_repeat_the_optimizer() -> None:
    """The optimizer's fields stand in `Optimization` alone, which both recipes hold."""
    from dataclasses import fields

    from genrec.training.recipes import SFT, Align, Optimization, Validation

    shared = {field.name for kind in (Optimization, Validation) for field in fields(kind)}
    for recipe in (SFT, Align):
        assert not shared & {field.name for field in fields(recipe)}
        assert {"optimization", "validation"} <= {field.name for field in fields(recipe)}
