"""How this stack grows: what more connections, WebSockets, workers, replicas, larger bodies and each feature cost."""
