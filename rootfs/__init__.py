"""Builds what goes into a guest: the self-contained bundle of programs, and Kata's "coco" extension image."""
