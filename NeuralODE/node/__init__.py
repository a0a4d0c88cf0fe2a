"""Neural ODEs of the damped pendulum: data, training strategies and rollouts."""
