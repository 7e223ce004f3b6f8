"""Suites: which dictionary belongs to which site of which model, read from `saes/<name>/suite.toml`."""

from featcircuits.suites.identity import check_model, fingerprint
from featcircuits.suites.suite import SHIPPED, Suite, load_suite, named_suites, suite_folders

__all__ = ["SHIPPED", "Suite", "check_model", "fingerprint", "load_suite", "named_suites", "suite_folders"]
