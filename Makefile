# SPDX-License-Identifier: Apache-2.0
# Thin over ci/: each target is one command that also works without make. A fresh clone needs only this file's targets.

.PHONY: demo test dev lint bench kills chaos chaos-at-least-once clean

demo:   ## the demonstration: builds what it needs, then runs without Kafka and without a network
	ci/bootstrap.sh demo
	.venv/bin/kafkaproc demo

test:   ## everything that CI does
	ci/all.sh

dev:    ## .venv with an editable build, for work on kafkaproc itself
	ci/bootstrap.sh dev

lint:   ## ruff and mypy
	ci/bootstrap.sh dev
	.venv/bin/python -m pytest tests/hygiene

bench:  ## the table of the figures, beside those of other frameworks
	ci/bootstrap.sh test
	.venv/bin/python -m bench.run

kills:  ## kill -9 of stream threads and supervisors in mid-run, RUNS times over
	ci/bootstrap.sh test
	KAFKAPROC_TEST_KILL_RUNS=$(or $(RUNS),50) .venv/bin/python -m pytest -rP -k kill_9 tests/integration/test_kills.py

chaos:  ## exactly-once under fire: everything that can happen, for SECONDS, in the order that SEED gives
	ci/bootstrap.sh test
	KAFKAPROC_TEST_CHAOS_SECONDS=$(or $(SECONDS),1800) KAFKAPROC_TEST_CHAOS_SEED=$(or $(SEED),1) \
		KAFKAPROC_TEST_CHAOS_PROTOCOLS=$(or $(PROTOCOLS),classic,consumer) \
		KAFKAPROC_TEST_CHAOS_MODE=$(or $(MODE),drain_free) \
		.venv/bin/python -m pytest -rP tests/chaos tests/integration/test_lost_assignment.py

chaos-at-least-once:  ## the same under at-least-once, without brokers that die, in SEEDS random orders
	ci/bootstrap.sh test
	KAFKAPROC_TEST_CHAOS_SEEDS=$(or $(SEEDS),20) .venv/bin/python -m pytest -rP tests/integration/test_chaos.py

clean:  ## removes what was built, the virtual environment included
	rm -rf .venv build dist *.egg-info csrc/build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find kafkaproc -name '*.so' -delete
	find kafkaproc/_core -name '*.c' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
