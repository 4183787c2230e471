# SPDX-License-Identifier: Apache-2.0
"""The Python face of the byte ring, for tests and tools; the runtime uses the functions of ring.pxd.

Protocol, layout and crash rules are in csrc/include/kafkaproc/ring.h.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

from kafkaproc.errors import KafkaprocError


cdef int raise_error(Error *error) except -1:
    text = error.message.decode("ascii", "replace")
    if error.code == ERROR_SYSTEM:
        raise OSError(error.system_errno, text)
    if error.code == ERROR_ARGUMENT:
        raise ValueError(text)
    raise KafkaprocError(text)


cdef class ByteRing:
    def __cinit__(self, uint64_t capacity_bytes):
        self.memory = NULL
        cdef Error error
        cdef uint64_t memory_bytes = ring_shared_bytes(capacity_bytes)
        if memory_bytes < capacity_bytes:
            raise ValueError(f"a ring of {capacity_bytes} bytes has no room in memory")
        cdef void *memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
        if memory == MAP_FAILED:
            raise OSError(errno, f"cannot map {memory_bytes} bytes for a ring")
        self.memory = memory
        self.memory_bytes = memory_bytes
        if ring_create(memory, capacity_bytes, &error) != 0:
            raise_error(&error)
        if ring_attach(&self.producer, memory, memory_bytes, RING_PRODUCER, &error) != ATTACH_READY:
            raise_error(&error)
        if ring_attach(&self.consumer, memory, memory_bytes, RING_CONSUMER, &error) != ATTACH_READY:
            raise_error(&error)

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, self.memory_bytes)

    @property
    def max_length(self):
        return self.producer.max_length

    @property
    def used_bytes(self):
        return ring_used_bytes(self.producer.shared)

    def write_nowait(self, bytes payload not None):
        if not self.append_nowait(payload):
            return False
        ring_publish(&self.producer)
        return True

    def append_nowait(self, bytes payload not None):
        cdef Py_ssize_t length = PyBytes_GET_SIZE(payload)
        if length > self.producer.max_length:
            raise ValueError(f"a record of {length} bytes is longer than this ring takes: {self.producer.max_length}")
        cdef void *room = ring_claim(&self.producer, <uint32_t>length)
        if room == NULL:
            return False
        memcpy(room, PyBytes_AS_STRING(payload), length)
        ring_append(&self.producer)
        return True

    def publish(self):
        ring_publish(&self.producer)

    def read_nowait(self):
        cdef uint32_t length
        cdef void *payload = ring_peek(&self.consumer, &length)
        if payload == NULL:
            return None
        record = PyBytes_FromStringAndSize(<char *>payload, length)
        ring_consume(&self.consumer)
        return record
