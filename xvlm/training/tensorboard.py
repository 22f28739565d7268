"""A TensorBoard writer that raises errors at once.

PyTorch's writer works in a thread: an error, such as a full disk, shows up late or never.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xvlm.common.atomic import AppendFile


class TensorBoardLog:
    """Writes scalars to an event file.  Raises OutputError if it cannot be written."""

    def __init__(self, folder: Path, start: int) -> None:
        """Begin a file, in which steps from `start` on replace those of earlier files."""
        # These modules are slow to import, and only the main rank needs them.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{start}"
        self._file = AppendFile(folder / name)
        self._records = RecordWriter(self._file)
        self._write(0, file_version="brain.Event:2")
        self._write(start, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Write the values of a step; values that are not numbers are left out."""
        values = [
            self._summary.Summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
            if isinstance(value, int | float)
        ]
        self._write(step, summary=self._summary.Summary(value=values))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, step: int, **fields: Any) -> None:
        event = self._event.Event(wall_time=time.time(), step=step, **fields)
        self._records.write(event.SerializeToString())
