# SPDX-License-Identifier: Apache-2.0
class Intake:
    """Records on their way in: native, part of StreamLoop."""
