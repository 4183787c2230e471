# SPDX-License-Identifier: Apache-2.0
"""A stream-thread process whose app is made by a function of stream_thread_apps.

python stream_thread_child.py CONTROL_FD SEGMENT_FD FUNCTION ARGUMENTS_AS_JSON
"""

from __future__ import annotations

import select
import sys

import orjson
import stream_thread_apps

from kafkaproc.runtime import stream_thread
from kafkaproc.runtime.control import stream_thread_end
from kafkaproc.runtime.messages import Start


def main(control_fd: str, segment_fd: str, factory: str, arguments: str) -> None:
    channel = stream_thread_end(int(control_fd))
    while True:
        select.select([channel], [], [])
        if messages := channel.receive_nowait():
            break
    (start,) = messages
    assert isinstance(start, Start)
    app = getattr(stream_thread_apps, factory)(*orjson.loads(arguments))
    stream_thread.run(channel, int(segment_fd), start, app)


main(*sys.argv[1:])
