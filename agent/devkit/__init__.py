"""For laptops and tests, left out of the guest image."""
