"""Every example in a docstring is run, and says what it prints."""

from __future__ import annotations

import doctest
import importlib

import pytest


def test_the_examples_in_docstrings_are_true(modules, subtests) -> None:
    ran = 0
    for name, module in modules.items():
        # Only a module with an example is imported here.
        if ">>> " not in module.file.read_text():
            continue
        with subtests.test(module=name):
            outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
            ran += outcome.attempted
            assert outcome.failed == 0, (
                f"see above: {outcome.failed} of {outcome.attempted} examples of {name} are wrong"
            )
    if not ran:
        pytest.skip("no docstring has an example yet")
