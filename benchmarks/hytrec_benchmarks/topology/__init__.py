"""Three servers, a Redis Cluster with replicas and a load balancer on one machine; parts of it fail and change."""
