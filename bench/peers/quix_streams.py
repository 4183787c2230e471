# SPDX-License-Identifier: Apache-2.0
"""Quix Streams: JSON → function → JSON. Runs in a virtual environment of its own (requirements-quix.txt)."""

import threading

from contract import Meter, arguments, enrich
from quixstreams import Application


def main() -> None:
    options = arguments(__doc__).parse_args()
    app = Application(
        broker_address=options.bootstrap,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        commit_interval=1.0,
        auto_create_topics=False,
        loglevel="WARNING",
        use_changelog_topics=False,
    )
    meter = Meter("quix_streams")
    first = threading.Event()

    def enrich_metered(order: dict[str, object]) -> dict[str, object]:
        if not first.is_set():
            first.set()
            meter.start()
        return enrich(order)

    orders = app.topic(options.input, key_serializer="bytes", key_deserializer="bytes")
    enriched = app.topic(options.output, key_serializer="bytes", key_deserializer="bytes")
    app.dataframe(orders).apply(enrich_metered).to_topic(enriched)
    app.run(count=options.count)
    meter.print_result(options.count)


if __name__ == "__main__":
    main()
