"""ttrpc: frames, server, client."""
