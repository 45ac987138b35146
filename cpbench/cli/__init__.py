"""The command line, one module a group of verbs: parse, call, print. Nothing heavy is imported before a verb needs it."""

from cpbench.cli.main import main as main
