#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything that CI does, on any machine: environment and build, then one pytest run over lint, the C tests, unit,
# packaging, multi-process, integration and chaos tests. One run, so that its closing lines and its exit code speak for all.
set -eu
cd "$(dirname "$0")/.."

started=$(date +%s)
ci/bootstrap.sh test
echo "kafkaproc: environment and build took $(($(date +%s) - started)) s"

export PYTHONPATH="ci${PYTHONPATH:+:$PYTHONPATH}"
exec .venv/bin/python -m pytest -p phase_times --durations=10 \
    tests/hygiene tests/native tests/unit tests/packaging tests/multiprocess tests/integration \
    tests/chaos "$@"
