"""What ``coco-agent inspect`` makes of a file: recognised by content, parsed, verified as far as it goes."""
