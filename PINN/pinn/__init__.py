"""Physics-informed networks: systems, training strategies and landscape tools."""
