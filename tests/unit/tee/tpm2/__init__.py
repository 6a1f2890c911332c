"""The TPM client, without a TPM."""
