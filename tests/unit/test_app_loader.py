# SPDX-License-Identifier: Apache-2.0
"""Loading an application: each way to name it, and one clear message for each thing that can be wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkaproc.errors import AppLoadError
from kafkaproc.runtime.app_loader import load_app

ONE_APP = 'import kafkaproc as kp\napp = kp.App("one")\n'


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def refusal(reference: str) -> str:
    with pytest.raises(AppLoadError) as caught:
        load_app(reference)
    return str(caught.value)


def test_a_file_a_file_with_a_name_and_a_module_with_a_name_load(directory: Path) -> None:
    (directory / "one.py").write_text(ONE_APP)
    (directory / "package").mkdir()
    (directory / "package" / "__init__.py").write_text("")
    (directory / "package" / "module.py").write_text(ONE_APP.replace('"one"', '"in-package"'))
    assert load_app("one.py").application_id == "one"
    assert load_app("one.py:app").application_id == "one"
    assert load_app(f"{directory}/one.py").application_id == "one"
    assert load_app("package.module:app").application_id == "in-package"
    assert load_app("package.module").application_id == "in-package"


def test_an_application_imports_what_lies_beside_it_and_may_bear_the_name_of_another_module(
    directory: Path,
) -> None:
    (directory / "sub").mkdir()
    (directory / "sub" / "beside_it.py").write_text('NAME = "beside"\n')
    (directory / "sub" / "json.py").write_text(
        "import beside_it, kafkaproc\na = kafkaproc.App(beside_it.NAME)\n"
    )
    import json

    assert load_app("sub/json.py").application_id == "beside"
    assert sys.modules["json"] is json


def test_an_application_is_imported_once_however_often_it_is_asked_for(directory: Path) -> None:
    (directory / "one.py").write_text(ONE_APP)
    assert load_app("one.py") is load_app(f"{directory}/one.py:app")


def test_one_app_under_two_names_is_one_app(directory: Path) -> None:
    (directory / "one.py").write_text(ONE_APP + "again = app\n")
    assert load_app("one.py").application_id == "one"


def test_a_missing_file_is_named_with_its_nearest_neighbour(directory: Path) -> None:
    (directory / "orders.py").write_text(ONE_APP)
    text = refusal("order.py")
    assert "order.py does not exist" in text
    assert str(directory) in text
    assert "Did you mean 'orders.py'?" in text


def test_what_is_no_python_file_is_refused(directory: Path) -> None:
    (directory / "notes.txt").write_text("x")
    (directory / "folder").mkdir()
    assert "notes.txt is not a Python file" in refusal("notes.txt")
    assert "folder is not a Python file" in refusal("folder")
    assert "no-such-thing does not exist" in refusal("no-such-thing")


@pytest.mark.parametrize("reference", ["", ":app", "a.py:", "a.py:not a name"])
def test_a_malformed_reference_is_refused(reference: str) -> None:
    assert "give app.py, app.py:name or package.module:name" in refusal(reference)


def test_a_missing_module_is_told_from_a_missing_import_within_one(directory: Path) -> None:
    assert "there is no module 'nowhere'" in refusal("nowhere:app")
    (directory / "package").mkdir()
    (directory / "package" / "__init__.py").write_text("")
    assert "there is no module 'package.nowhere'" in refusal("package.nowhere:app")
    (directory / "needs.py").write_text("import not_installed_anywhere\n")
    text = refusal("needs:app")
    assert "No module named 'not_installed_anywhere'" in text
    assert "needs.py" in text


def test_a_file_without_an_app_says_what_to_add(directory: Path) -> None:
    (directory / "none.py").write_text("x = 1\n")
    assert (
        refusal("none.py")
        == 'none.py holds no App: add app = kafkaproc.App("application-id") at its top level'
    )


def test_two_apps_are_named_with_the_way_to_choose(directory: Path) -> None:
    (directory / "two.py").write_text('import kafkaproc as kp\nfirst = kp.App("a")\nsecond = kp.App("b")\n')
    assert refusal("two.py") == "two.py holds 2 Apps (first, second): say which, as in two.py:first"
    assert load_app("two.py:second").application_id == "b"


def test_a_wrong_name_is_named_with_the_nearest_app(directory: Path) -> None:
    (directory / "one.py").write_text(ONE_APP + "number = 3\n")
    assert refusal("one.py:ap") == "one.py holds no 'ap'. Did you mean 'app'?"
    assert refusal("one.py:number") == "one.py:number is 3, not a kafkaproc App"


def test_a_syntax_error_shows_the_users_line_and_no_traceback(directory: Path) -> None:
    (directory / "broken.py").write_text("import kafkaproc\nx = (\n")
    text = refusal("broken.py")
    assert text.startswith("broken.py is not valid Python:")
    assert 'broken.py", line 2' in text
    assert "Traceback" not in text


def test_an_exception_shows_the_users_frames_and_none_of_ours(directory: Path) -> None:
    (directory / "beside.py").write_text("def fail():\n    raise ValueError('no such table')\n")
    (directory / "raises.py").write_text("import beside\nbeside.fail()\n")
    text = refusal("raises.py")
    assert text.startswith("raises.py raised while it was imported:\nTraceback")
    assert 'raises.py", line 2' in text
    assert 'beside.py", line 2' in text
    assert text.endswith("ValueError: no such table")
    assert "app_loader" not in text
    assert "importlib" not in text


def test_the_cause_of_an_exception_is_shown_without_our_frames_too(directory: Path) -> None:
    (directory / "chained.py").write_text(
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('outer') from error\n"
    )
    text = refusal("chained.py")
    assert "ZeroDivisionError" in text
    assert "direct cause" in text
    assert "app_loader" not in text


def test_our_own_refusal_of_the_topology_names_the_users_line(directory: Path) -> None:
    (directory / "wrong.py").write_text('import kafkaproc as kp\n\napp = kp.App("a b")\n')
    text = refusal("wrong.py")
    assert text.startswith("wrong.py:3: ")
    assert "Traceback" not in text


def test_sys_exit_while_importing_is_explained(directory: Path) -> None:
    (directory / "exits.py").write_text("import sys\nsys.exit(3)\n")
    text = refusal("exits.py")
    assert text.startswith("exits.py:2: sys.exit(3)")
    assert "__main__" in text
