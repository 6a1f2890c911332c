"""gRPC: the same services as ttrpc, for clients that speak nothing else. Needs the extra ``[grpc]``."""
