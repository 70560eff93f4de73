"""Exit status 0 if gRPC's health service at the address says SERVING: the process lives, which is all that Flower tells there."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

try:
    channel = grpc.insecure_channel(sys.argv[1])
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
except grpc.RpcError as error:
    sys.exit(f"no answer: {error.code()}")  # type: ignore[attr-defined]
sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)
