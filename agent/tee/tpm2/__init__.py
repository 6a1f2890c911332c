"""A TPM 2.0 client of our own: what attestation needs, and nothing that makes or loads keys.

``codes`` names the TPM's answers, ``commands`` is the codec (no I/O), ``device`` carries bytes, ``client``
asks, ``quoting`` fits quote and PCRs together, ``registers`` is what PCRs mean to us, ``probe`` looks
whether a TPM is one of ours.
"""
