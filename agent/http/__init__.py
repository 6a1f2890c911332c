"""HTTP/1.1 in our own hands. What a message is, llhttp says; connections, bounds and time limits are ours."""
