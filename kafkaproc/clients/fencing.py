# SPDX-License-Identifier: Apache-2.0
"""Ends the transactions of producers that nobody will be again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import confluent_kafka as ck

from kafkaproc.clients.diagnosis import broker_error
from kafkaproc.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
"""For one id: to find its coordinator, and for that to end the transaction."""


def fence(settings: Settings, transactional_ids: Iterable[str]) -> None:
    """Aborts what is open under each id, or completes what was decided. Raises BrokerError,
    Unavailable for what may pass."""
    for transactional_id in transactional_ids:
        conf = {
            **settings.producer_conf(),
            "client.id": f"{transactional_id}-former",
            "transactional.id": transactional_id,
            "transaction.timeout.ms": settings.transaction_timeout_ms,
        }
        producer = ck.Producer(conf, logger=log)
        try:
            producer.init_transactions(TIMEOUT_S)
        except ck.KafkaException as error:
            raise broker_error(
                error.args[0].code(),
                f"the transactions of {transactional_id}, a stream thread that this instance had before, cannot be "
                f"ended: {error.args[0].str()}",
            ) from None
