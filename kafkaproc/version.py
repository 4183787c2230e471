# SPDX-License-Identifier: Apache-2.0
"""The version, in one place: pyproject.toml reads it from here."""

from typing import Final

__version__: Final = "0.1.0"
