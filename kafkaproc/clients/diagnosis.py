# SPDX-License-Identifier: Apache-2.0
"""From what librdkafka says when no broker answers to one sentence that tells the user what to change.

librdkafka tries for ever and says of each attempt what became of it, in an error or in a log line. A few seconds of
that tell what is wrong more often than not; the phrases below are its own, as of 2.x.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import confluent_kafka as ck

from kafkaproc.errors import BrokerError
from kafkaproc.settings import Settings


class Unavailable(BrokerError):
    """A request came to nothing for a reason that passes: the same one may go through later."""


_PASSING: Final = frozenset(
    {
        ck.KafkaError._TIMED_OUT,
        ck.KafkaError._TIMED_OUT_QUEUE,
        ck.KafkaError._TRANSPORT,
        ck.KafkaError._ALL_BROKERS_DOWN,
        ck.KafkaError._WAIT_COORD,
        ck.KafkaError.BROKER_NOT_AVAILABLE,
        ck.KafkaError.CONCURRENT_TRANSACTIONS,
        ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        ck.KafkaError.COORDINATOR_NOT_AVAILABLE,
        ck.KafkaError.LEADER_NOT_AVAILABLE,
        ck.KafkaError.NETWORK_EXCEPTION,
        ck.KafkaError.NOT_CONTROLLER,
        ck.KafkaError.NOT_COORDINATOR,
        ck.KafkaError.NOT_ENOUGH_REPLICAS,
        ck.KafkaError.NOT_LEADER_FOR_PARTITION,
        ck.KafkaError.REQUEST_TIMED_OUT,
        ck.KafkaError.THROTTLING_QUOTA_EXCEEDED,
    }
)


def broker_error(code: int, text: str) -> BrokerError:
    """The error with this text for what a client was told."""
    return Unavailable(text) if code in _PASSING else BrokerError(text)


# A phrase in librdkafka's report → what it means. The first that is found wins, so the certain ones come first.
_MEANINGS: Final = (
    (
        "authentication",
        "the broker refused the credentials: check sasl_mechanism, sasl_username, sasl_password",
    ),
    ("sasl", "SASL failed: check security_protocol, sasl_mechanism and the credentials"),
    ("certificate verify failed", "the broker's certificate is not trusted: set ssl_ca_location"),
    (
        "wrong version number",
        "the broker does not speak TLS on this port: set security_protocol = 'plaintext'",
    ),
    (
        "plaintext broker listener",
        "the broker does not speak TLS on this port: set security_protocol = 'plaintext' or use its TLS port",
    ),
    ("ssl handshake", "the TLS handshake failed: check security_protocol and the ssl_* settings"),
    (
        "ssl listener",
        "the broker expects TLS on this port: set security_protocol = 'ssl', or use its plaintext port",
    ),
    ("invalid response size", "what listens on this port is no Kafka broker: check host and port"),
    ("failed to resolve", "the host name is unknown: check bootstrap_servers"),
    ("connection refused", "nothing listens on this port: start the broker, or check bootstrap_servers"),
    (
        "apiversion",
        "what listens on this port does not answer as a Kafka broker: check host, port and security_protocol "
        "(a TLS port needs security_protocol = 'ssl')",
    ),
    (
        "disconnected",
        "the connection is closed from the other side: check host, port and security_protocol "
        "(a TLS port needs security_protocol = 'ssl')",
    ),
)


def unreachable(settings: Settings, reports: Iterable[str], waited_s: float) -> BrokerError:
    """The error for a cluster that did not answer in `waited_s`; `reports` are librdkafka's, oldest first."""
    texts = list(dict.fromkeys(reports))
    meaning, words = next(
        ((meaning, text) for phrase, meaning in _MEANINGS for text in texts if phrase in text.lower()),
        ("check host, port and firewall", texts[-1] if texts else ""),
    )
    last = f" (librdkafka: {words})" if words else ""
    return BrokerError(
        f"no broker answered at bootstrap_servers = {settings.bootstrap_servers!r} "
        f"({settings.origin('bootstrap_servers')}) within {waited_s:g} s: {meaning}{last}"
    )
