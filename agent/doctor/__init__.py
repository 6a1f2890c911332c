"""``coco-agent doctor``: looks at everything evidence and keys depend on, and says what to do about it."""
