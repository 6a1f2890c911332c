"""HTTP/1.1 framing: bytes and what they are, recordings of real programs, other readers to compare with."""
