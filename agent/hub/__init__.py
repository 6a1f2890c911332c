"""What the guest hands out after attestation."""
