# SPDX-License-Identifier: Apache-2.0
# A task's compiled sub-topology. See task_runtime.pyx.

from kafkaproc._core.flow cimport Collector

cdef class TaskRuntime:
    cdef readonly str task_id
    cdef readonly list sources               # Source, in the order of the sub-topology
    cdef readonly dict stage_nodes           # stage index -> StageNode
    cdef readonly list processors            # opened Processor instances, in topological order
    cdef object producer
    cdef object resources
    cdef Collector collector
