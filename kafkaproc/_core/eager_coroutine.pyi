# SPDX-License-Identifier: Apache-2.0
"""No Python names: see eager_coroutine.pxd."""
