# SPDX-License-Identifier: Apache-2.0
# A stream thread's producer. Messages go through rdkafka.native_produce(producer.rk, producer.topic(name), …). See native_producer.pyx.

from libc.stdint cimport int64_t

from kafkaproc._core.client_events cimport delivery_t
from kafkaproc._core.native_client cimport NativeClient

cdef class NativeProducer(NativeClient):
    cdef bint used_by_python             # produce() was called: its messages' reports belong to deliveries()
    cdef bint transactional              # its reports come as events: see client_events
    cdef bint given_up                   # see give_up
    cdef readonly int64_t batch_bytes    # the most that a batch of several records takes, requests' framing included
    cdef list reports                    # deliveries that Python's produce() asked for and nobody took yet
    # Before the first message: who is told of each delivery report. Python's produce() is refused from here on.
    cdef int set_delivery(self, delivery_t delivery, void *opaque) except -1
