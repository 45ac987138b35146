"""On what numbers were computed, and how CUDA is asked for the same bits."""

import json
import subprocess
import sys

import torch

from cpbench.records import machine
from cpbench.records import machine as machine_module

SET = """
import json, os
import torch
from cpbench.records import machine
machine.set_deterministic()
print(json.dumps([
    torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"], torch.backends.cudnn.benchmark,
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
]))
"""


def test_deterministic_asks_for_everything_that_pytorchs_notes_name() -> None:
    done = subprocess.run([sys.executable, "-c", SET], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, ":4096:8", False, False, False]


def test_facts_name_the_processor_its_threads_and_the_libraries() -> None:
    facts = machine.facts("cpu")
    assert facts["device"] == "cpu" and facts["threads"] == torch.get_num_threads()
    assert facts["versions"] == machine_module.versions()
    assert torch.backends.cpu.get_cpu_capability() in facts["processor"]


def test_one_set_of_conditions_is_no_difference() -> None:
    assert machine.differences([]) == ""
    assert machine.differences([machine.facts("cpu") | {"learning": [1, 2], "row": [0, 1, 2]}]) == ""


def test_the_line_names_what_differs_and_nothing_else() -> None:
    facts = machine.facts("cpu")
    other = facts | {"threads": 7, "versions": facts["versions"] | {"torch": "0.0.1"}}
    line = machine.differences([facts | {"learning": [1], "row": [0, 1]}, other | {"learning": [2], "row": []}])
    assert "tasks 1 and rows 0, 1 with threads 1" in line and "tasks 2 with threads 7" in line
    assert "{'torch': '0.0.1'}" in line and "timm" not in line and facts["processor"] not in line
