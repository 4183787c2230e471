# SPDX-License-Identifier: Apache-2.0
"""From what the user typed (`app.py`, `app.py:name`, `package.module:name`) to the App object.

The supervisor and each stream-thread process load the application with this one function. Whatever goes
wrong is an AppLoadError whose text is the user's own: file, line, and the traceback without the frames of
kafkaproc and of the import machinery.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, ModuleType
from typing import Final, NamedTuple

from kafkaproc.app import App
from kafkaproc.errors import AppLoadError, KafkaprocError, did_you_mean
from kafkaproc.settings import Settings
from kafkaproc.topology.handoff import plan_handoffs
from kafkaproc.topology.topology import Topology

_OUR_DIRECTORY: Final = str(Path(__file__).resolve().parent.parent)

_loaded_files: dict[Path, ModuleType] = {}
"""Like `sys.modules`, for files: whoever asks for an application again in this process gets the same objects."""


class AppReference(NamedTuple):
    """A parsed reference: a path or else a module; `name` is empty where the user gave none."""

    path: Path | None
    module: str
    name: str


def parse_reference(reference: str) -> AppReference:
    """Splits a reference; a file is told from a module by its slash, its suffix or its existence."""
    target, separator, name = reference.rpartition(":")
    if not separator:
        target, name = reference, ""
    if not target or (separator and not name.isidentifier()):
        raise AppLoadError(
            f"{reference!r} is no application: give app.py, app.py:name or package.module:name"
        )
    if "/" in target or target.endswith(".py") or Path(target).exists():
        return AppReference(Path(target), "", name)
    if not all(part.isidentifier() for part in target.split(".")):
        return AppReference(Path(target), "", name)
    return AppReference(None, target, name)


def load_app(reference: str) -> App:
    """Imports the application, once in this process, and returns its App. Starts and connects nothing.

    Raises AppLoadError.
    """
    parsed = parse_reference(reference)
    if parsed.path is not None:
        where, module = str(parsed.path), _import_file(parsed.path)
    else:
        where, module = parsed.module, _import_module(parsed.module)
    return _find_app(module, where, parsed.name)


def build_topology(app: App, settings: Settings) -> Topology:
    """The topology as it runs under `settings`: with hand-off topics where exactly-once needs them.

    The supervisor, its stream-thread processes and the commands that show it all ask here, and get the same. Raises
    TopologyError.
    """
    topology = app.build()
    if settings.exactly_once and settings.commit_mode == "drain_free":
        return plan_handoffs(topology, settings.application_id)
    return topology


def _import_file(path: Path) -> ModuleType:
    if not path.exists():
        beside = sorted(file.name for file in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise AppLoadError(
            f"{path} does not exist (looked in {Path.cwd()}).{did_you_mean(path.name, beside)}"
        )
    if path.suffix != ".py" or not path.is_file():
        raise AppLoadError(f"{path} is not a Python file: the application must be a .py file or a module")
    try:
        path.open("rb").close()
    except OSError as error:
        raise AppLoadError(f"cannot read {path}: {error.strerror}") from None
    if (loaded := _loaded_files.get(path.resolve())) is not None:
        return loaded
    directory = str(path.resolve().parent)
    # So that the application can import what lies beside it, as with `python app.py`.
    if directory not in sys.path:
        sys.path.insert(0, directory)
    # Under its own name, so that modules beside it can import it back; unless that name is taken (`json.py`).
    name = path.stem if path.stem not in sys.modules else f"kafkaproc_application_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[name] = module
    _run_import(lambda: loader.exec_module(module), str(path))
    _loaded_files[path.resolve()] = module
    return module


def _import_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:  # as with `python -m`
        sys.path.insert(0, str(Path.cwd()))
    found: list[ModuleSpec | None] = []
    try:
        # Finding it imports the packages above it.
        _run_import(lambda: found.append(importlib.util.find_spec(name)), name)
    except ModuleNotFoundError:
        found.append(None)
    if found[-1] is None:
        raise AppLoadError(
            f"there is no module {name!r} (looked in {Path.cwd()} and the installed packages); "
            "a file is given as path/to/app.py"
        )
    _run_import(lambda: importlib.import_module(name), name)
    return sys.modules[name]


def _run_import(run: Callable[[], object], where: str) -> None:
    """Runs the user's import; what it raises becomes an AppLoadError with the user's traceback."""
    try:
        run()
    except SyntaxError as error:
        shown = "".join(traceback.format_exception_only(error)).rstrip()
        raise AppLoadError(f"{where} is not valid Python:\n{shown}") from None
    except KafkaprocError as error:
        raise AppLoadError(f"{_users_last_line(error) or where}: {error}") from None
    except SystemExit as error:
        raise AppLoadError(
            f"{_users_last_line(error) or where}: sys.exit({error.code!r}) while {where} was imported: "
            'put what is not for kafkaproc under `if __name__ == "__main__":`'
        ) from None
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{where}.".startswith(f"{error.name}."):
            raise  # a package that the reference itself names
        innermost, _ = list(traceback.walk_tb(error.__traceback__))[-1]
        if _filename(innermost).startswith(_OUR_DIRECTORY):
            raise  # ours, and not one of our errors: a bug, to be shown as one
        raise AppLoadError(f"{where} raised while it was imported:\n{_users_traceback(error)}") from None


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OUR_DIRECTORY, "<frozen importlib"))


def _users_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, without kafkaproc's frames and those of the import machinery."""
    shown = traceback.TracebackException.from_exception(error)
    _drop_our_frames(shown)
    return "".join(shown.format()).rstrip()


def _drop_our_frames(shown: traceback.TracebackException | None) -> None:
    if shown is not None:
        shown.stack[:] = [frame for frame in shown.stack if not _is_ours(frame.filename)]
        for part in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
            _drop_our_frames(part)


def _users_last_line(error: BaseException) -> str:
    """`app.py:12`: the innermost line of the user's own that the error passed through, or empty."""
    lines = [
        (frame, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if not _is_ours(_filename(frame))
    ]
    if not lines:
        return ""
    frame, number = lines[-1]
    return f"{_relative(_filename(frame))}:{number}"


def _filename(frame: FrameType) -> str:
    return frame.f_code.co_filename


def _relative(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _find_app(module: ModuleType, where: str, name: str) -> App:
    if name:
        if name not in vars(module):
            raise AppLoadError(
                f"{where} holds no {name!r}.{did_you_mean(name, list(_apps(module)) or vars(module))}"
            )
        chosen = getattr(module, name)
        if not isinstance(chosen, App):
            raise AppLoadError(f"{where}:{name} is {chosen!r:.80}, not a kafkaproc App")
        return chosen
    apps = _apps(module)
    if not apps:
        raise AppLoadError(
            f'{where} holds no App: add app = kafkaproc.App("application-id") at its top level'
        )
    if len(apps) > 1:
        raise AppLoadError(
            f"{where} holds {len(apps)} Apps ({', '.join(apps)}): say which, as in {where}:{next(iter(apps))}"
        )
    return next(iter(apps.values()))


def _apps(module: ModuleType) -> dict[str, App]:
    """The Apps among the module's globals, each once, under its first name."""
    apps: dict[str, App] = {}
    for name, value in vars(module).items():
        if isinstance(value, App) and not any(value is app for app in apps.values()):
            apps[name] = value
    return apps
