"""What the test puts beside the built root: hardware that is not there, and clients."""
