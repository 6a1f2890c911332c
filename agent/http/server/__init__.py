"""HTTP/1.1 served: connections, their bytes, places and time limits. Framing is the parser's."""
