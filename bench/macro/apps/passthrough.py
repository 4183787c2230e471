# SPDX-License-Identifier: Apache-2.0
"""Bytes in, the same bytes out: no Python node."""

import os

import kafkaproc as kp

app = kp.App(os.environ["BENCH_APPLICATION_ID"])
app.stream(os.environ["BENCH_INPUT"]).to(os.environ["BENCH_OUTPUT"])
