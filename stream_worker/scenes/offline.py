"""Keeps ultralytics from the network: must run before its first import."""

from __future__ import annotations

import os
import tempfile


def offline() -> None:
    """Set what makes ultralytics neither ask the network, install, download nor write outside a private folder."""
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="stream-worker-yolo-"))
    os.environ.setdefault("YOLO_VERBOSE", "false")
