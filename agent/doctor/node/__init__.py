"""``coco-agent doctor --node``: can this Kubernetes worker make confidential guests, and is Kata set up?

Looks at the host side: at what Kata itself looks at before it starts a guest, and at what the kernel needs
before it offers that.
"""
