"""Scalars for TensorBoard, written by the process itself: torch's writer does it in a thread, whose errors
(a full disk) are shown as a traceback of the thread, late or never."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xvlm.whole import AppendFile


class Board:
    """An event file.  Raises OutputError where it cannot be written."""

    def __init__(self, folder: Path, start: int) -> None:
        """Begin a file whose steps from `start` on replace those of earlier ones."""
        # Slow to import, and only one process needs it.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{start}"
        self._file = AppendFile(folder / name)
        self._records = RecordWriter(self._file)
        self._write(0, file_version="brain.Event:2")
        self._write(start, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Numbers of a step; what is no number is left out."""
        values = [
            self._summary.Summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
            if isinstance(value, int | float)
        ]
        self._write(step, summary=self._summary.Summary(value=values))

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def _write(self, step: int, **what: Any) -> None:
        event = self._event.Event(wall_time=time.time(), step=step, **what)
        self._records.write(event.SerializeToString())
