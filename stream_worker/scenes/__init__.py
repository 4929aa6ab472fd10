"""Rendered rooms with exact masks: what our own detector learns from, and the photos of demo and tests."""

from stream_worker.scenes.furniture import CLASSES
from stream_worker.scenes.scene import Scene, SceneObject, render

__all__ = ["CLASSES", "Scene", "SceneObject", "render"]
