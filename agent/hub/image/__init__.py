"""Encrypted container images: the layer cipher, OCI image layouts, and who can unwrap a layer's key."""
